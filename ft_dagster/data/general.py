"""Raw text for a mixture: documents cut into chunks; general text dealt out so that the share is right."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from pyarrow.parquet import ParquetFile

from ft_dagster.data.render import encode_texts
from ft_dagster.objectives import Rendered

HOLDOUT_CHUNKS = 32
HOLDOUT_TOKENS = 512


class Chunk(NamedTuple):
    """Tokens of a document; each but the first is trained on. `text` is what they stand for."""

    input_ids: list[int]
    record: str
    text: str

    @property
    def trained_tokens(self) -> int:
        return len(self.input_ids) - 1

    def rendered(self, trained: int | None = None) -> Rendered:
        """As an example, cut to that many trained tokens."""
        ids = self.input_ids if trained is None else self.input_ids[: trained + 1]
        return Rendered(ids, ((1, len(ids)),), truncated=len(ids) < len(self.input_ids))


class GeneralText:
    """Deals out general chunks beside the task's rows, so that the two are interleaved evenly.

    `share` is of all trained tokens: g = share / (1 - share) * task. No chunk is given twice.
    """

    def __init__(self, corpus: Path, tokenizer: Any, share: float, max_length: int, seed: int) -> None:
        self._chunks = _train_chunks(corpus, tokenizer, max_length, seed)
        self._ratio = share / (1 - share)
        self._pending: Chunk | None = None
        self.given = 0  # trained tokens
        self.exhausted = False

    def needed(self, task_trained: int) -> int:
        """Trained general tokens that belong to this many trained task tokens."""
        return round(self._ratio * task_trained)

    def due(self, task_trained: int, *, last: bool = False) -> Iterator[tuple[Rendered, str]]:
        """The (example, record) now due; with `last`, a cut one too, so that the share is exact."""
        while (missing := self.needed(task_trained) - self.given) > 0:
            if self._pending is None:
                self._pending = next(self._chunks, None)
            if self._pending is None:
                self.exhausted = True
                return
            if self._pending.trained_tokens > missing and not last:
                return
            example = self._pending.rendered(min(missing, self._pending.trained_tokens))
            record, self._pending = self._pending.record, None
            self.given += example.trained_tokens
            yield example, record


def holdout_chunks(corpus: Path, tokenizer: Any, max_length: int) -> list[Chunk]:
    """At most 32 chunks of at most 512 tokens of held-out documents, the same for every variant of a base.

    Which documents: those of the smallest record leaves; each gives a first chunk before any gives a second.
    """
    rows = heapq.nsmallest(HOLDOUT_CHUNKS, _rows(corpus / "holdout.parquet"), key=lambda row: row["record"])
    length = min(HOLDOUT_TOKENS, max_length)
    streams = [document_chunks(row["text"], row["record"], tokenizer, length) for row in rows]
    chosen: list[Chunk] = []
    while streams and len(chosen) < HOLDOUT_CHUNKS:
        found = [(stream, next(stream, None)) for stream in streams]
        streams = [stream for stream, chunk in found if chunk is not None]
        chosen += [chunk for _, chunk in found if chunk is not None]
    return chosen[:HOLDOUT_CHUNKS]


def document_chunks(text: str, record: str, tokenizer: Any, length: int) -> Iterator[Chunk]:
    """A document's tokens and the end-of-sequence token, cut every `length` tokens: all of them, in order.

    A last token that would stand alone, and so could not be trained, takes the one before it along; a
    document of one token has no chunk. Every chunk has the document's record leaf.
    """
    [(ids, offsets)] = encode_texts([text], tokenizer)
    eos = tokenizer.eos_token_id
    if eos is not None and ids and ids[-1] != eos:
        ids, offsets = [*ids, eos], [*offsets, (len(text), len(text))]
    cuts = [*range(0, len(ids), length), len(ids)]
    if len(cuts) > 2 and cuts[-1] - cuts[-2] == 1:
        cuts[-2] -= 1
    for start, stop in pairwise(cuts):
        places = offsets[start:stop]
        if stop - start > 1:
            first, last = min(place[0] for place in places), max(place[1] for place in places)
            yield Chunk(ids[start:stop], record, text[first:last])


def _train_chunks(corpus: Path, tokenizer: Any, max_length: int, seed: int) -> Iterator[Chunk]:
    """Chunks of the training documents: row groups in a seeded order, documents in one within each."""
    with ParquetFile(corpus / "train.parquet") as table:
        for group in _shuffled(table.num_row_groups, f"{seed}"):
            rows = table.read_row_group(group).to_pylist()
            for row in _shuffled(len(rows), f"{seed}:{group}"):
                document = rows[row]
                yield from document_chunks(document["text"], document["record"], tokenizer, max_length)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    with ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=64, columns=["text", "record"]):
            yield from batch.to_pylist()


def _shuffled(count: int, seed: str) -> list[int]:
    """A permutation that no library version changes: by the hash of seed and number."""
    return sorted(range(count), key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())
