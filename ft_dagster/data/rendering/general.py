"""Cuts documents into chunks, and deals out general text so that its share of a mixture is right."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ft_dagster.data.rendering.token_spans import encode_texts
from ft_dagster.data.rows.content import identity_of, normal_text, words_of
from ft_dagster.objectives import Rendered
from ft_dagster.spec.data import ShareOf

if TYPE_CHECKING:
    from ft_dagster.data.rows.decontaminate import EvaluationGrams

WATCHED = 32  # the first of them: measured again and again while a model is trained
HELD_OUT_TOKENS = 256


class Chunk(NamedTuple):
    """Holds tokens of a document; each but the first is trained on. `text` is what they stand for; `row`: the
    document's number in its file.
    """

    input_ids: list[int]
    row: int
    text: str

    @property
    def trained_tokens(self) -> int:
        return len(self.input_ids) - 1

    def rendered(self, trained: int | None = None) -> Rendered:
        """Return the chunk as an example, cut to that many trained tokens."""
        ids = self.input_ids if trained is None else self.input_ids[: trained + 1]
        return Rendered(ids, ((1, len(ids)),), truncated=len(ids) < len(self.input_ids))


class GeneralText:
    """Deals out general chunks beside the task's rows, so that the two are interleaved evenly.

    `share` is of all trained, or of all processed tokens (`share_of`): g = share / (1 - share) * task. No
    chunk is given twice. Nor is one that overlaps the evaluation (`grams`): `overlaps` has the rows of those
    by task. Only chunks that are due are looked at, so that this costs by the share and not by the size of
    the corpus.
    """

    def __init__(  # noqa: PLR0917
        self,
        corpus: Path,
        tokenizer: Any,
        share: float,
        max_length: int,
        seed: int,
        grams: EvaluationGrams | None = None,
        *,
        share_of: ShareOf,
    ) -> None:
        self.overlaps: dict[str, list[int]] = {}
        chunks = _train_chunks(corpus, tokenizer, max_length, seed)
        self._chunks = chunks if grams is None else self._without_overlaps(chunks, grams)
        self._ratio = share / (1 - share)
        self._pending: Chunk | None = None
        self._share_of = share_of
        self._corpus, self._encode = corpus, (tokenizer, max_length)
        self._last: tuple[int, int] | None = None  # the document given last: its row, tokens of it so far
        self.given = 0  # tokens of the kind that the share is of

    def counted(self, example: Rendered) -> int:
        """Count the example's tokens of the kind that the share is of."""
        return example.trained_tokens if self._share_of == "trained" else len(example.input_ids)

    def needed(self, task: int) -> int:
        """Return how many general tokens belong to this many of the task."""
        return round(self._ratio * task)

    def due(self, task: int, *, last: bool = False) -> Iterator[tuple[Rendered, int]]:
        """Yield the (example, row of the corpus) now due; with `last`, a cut one too: the share is exact.

        To a token: of those that are read, one alone would be none that is trained.
        """
        untrained = 0 if self._share_of == "trained" else 1  # of a chunk
        while (missing := self.needed(task) - self.given - untrained) > 0:
            if self._pending is None:
                self._pending = next(self._chunks, None)
            if self._pending is None:
                return
            if self._pending.trained_tokens > missing and not last:
                return
            example = self._pending.rendered(min(missing, self._pending.trained_tokens))
            row, self._pending = self._pending.row, None
            self.given += self.counted(example)
            before = self._last[1] if self._last is not None and self._last[0] == row else 0
            self._last = (row, before + len(example.input_ids))
            yield example, row

    def in_part(self) -> list[int]:
        """Return the rows of documents of which pieces were given and others not: they overlap the
        evaluation, or the share was reached.
        """
        rows = {row for rows in self.overlaps.values() for row in rows}
        if self._last is not None:
            row, given = self._last
            chunks = document_chunks(_text_of(self._corpus, row), row, *self._encode)
            rows |= {row} if given < sum(len(chunk.input_ids) for chunk in chunks) else set()
        return sorted(rows)

    def _without_overlaps(self, chunks: Iterator[Chunk], grams: EvaluationGrams) -> Iterator[Chunk]:
        for chunk in chunks:
            task = grams.overlap(words_of(normal_text(chunk.text)))
            if task is None:
                yield chunk
            else:
                self.overlaps.setdefault(task, []).append(chunk.row)


class HeldOut(NamedTuple):
    """Is a chunk of a held-out document. `document`: the identity of all of it, in hex."""

    document: str
    chunk: Chunk


def holdout_chunks(corpus: Path, tokenizer: Any, max_length: int, most: int) -> list[HeldOut]:
    """Return at most `most` chunks of at most 256 tokens of held-out documents, the same for every variant of
    a base that asks for so many.

    Which documents: those of the smallest identities; each gives a first chunk before any gives a second.
    """
    documents = heapq.nsmallest(most, _documents(corpus / "holdout.parquet"))
    length = min(HELD_OUT_TOKENS, max_length)
    streams = [(name, document_chunks(text, row, tokenizer, length)) for name, row, text in documents]
    chosen: list[HeldOut] = []
    while streams and len(chosen) < most:
        found = [(name, stream, next(stream, None)) for name, stream in streams]
        streams = [(name, stream) for name, stream, chunk in found if chunk is not None]
        chosen += [HeldOut(name, chunk) for name, _, chunk in found if chunk is not None]
    return chosen[:most]


def document_chunks(text: str, row: int, tokenizer: Any, length: int) -> Iterator[Chunk]:
    """Cut a document's tokens and the end-of-sequence token every `length` tokens: all of them, in order.

    A last token that would stand alone, and so could not be trained, takes the one before it along; a
    document of one token has no chunk. Every chunk has the document's number in its file.
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
            yield Chunk(ids[start:stop], row, text[first:last])


def _train_chunks(corpus: Path, tokenizer: Any, max_length: int, seed: int) -> Iterator[Chunk]:
    """Yield chunks of the training documents: row groups in a seeded order, documents in one within each."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(corpus / "train.parquet") as table:
        sizes = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
        for group in _shuffled(len(sizes), f"{seed}"):
            texts = table.read_row_group(group, columns=["text"]).column("text").to_pylist()
            for place in _shuffled(len(texts), f"{seed}:{group}"):
                row = sum(sizes[:group]) + place
                yield from document_chunks(texts[place], row, tokenizer, max_length)


def _documents(file: Path) -> Iterator[tuple[str, int, str]]:
    """Yield (identity in hex, row, text) of each document."""
    from ft_dagster.data.files.tables import open_table

    row = 0
    with open_table(file) as table:
        for batch in table.iter_batches(batch_size=64, columns=["text"]):
            for text in batch.column(0).to_pylist():
                yield identity_of("text", [("text", normal_text(text))]).hex(), row, text
                row += 1


def _text_of(corpus: Path, row: int) -> str:
    """Return the text of a document of the training part."""
    from ft_dagster.data.files.tables import open_table

    with open_table(corpus / "train.parquet") as table:
        for batch in table.iter_batches(columns=["text"]):
            if row < len(batch):
                return str(batch.column(0)[row])
            row -= len(batch)
    raise IndexError(row)


def _shuffled(count: int, seed: str) -> list[int]:
    """Return a permutation that no library version changes: by the hash of seed and number."""
    return sorted(range(count), key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())
