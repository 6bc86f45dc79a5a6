"""Read a mixture's split: token ids in a memory-mapped scratch file, trained spans and lengths in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ft_dagster.errors import UserError
from ft_dagster.training.batches.beginnings import Beginnings, Part, find_beginnings, parts_of

READ_ROWS = 4096
WAY_OUT = "Materialize training_mixture again"


@dataclass(frozen=True)
class Examples:
    """Holds one split: example i holds `tokens[starts[i]:starts[i + 1]]`; likewise `spans` with
    `span_starts`.

    Spans are flattened [start, end) pairs of positions whose token is a label. `shards` is the number
    of examples of each shard. `beginnings`: what they have in common and compute once; None: nothing.
    """

    tokens: NDArray[np.int32]
    starts: NDArray[np.int64]
    spans: NDArray[np.int32]
    span_starts: NDArray[np.int64]
    shards: tuple[int, ...]
    beginnings: Beginnings | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    @cached_property
    def trained(self) -> NDArray[np.int64]:
        """Count the labelled tokens of each example."""
        labels = np.concatenate([[0], np.cumsum(self.spans[1::2] - self.spans[::2])])
        return np.diff(labels[self.span_starts // 2]).astype(np.int64)

    @property
    def trained_tokens(self) -> int:
        return int(self.trained.sum())

    def sharing(self, capacity: int) -> Examples:
        """Return the same examples, with beginnings in common to be computed once in rows of `capacity`."""
        return replace(self, beginnings=find_beginnings(self.tokens, self.starts, capacity))

    def parts(self, ordinals: Sequence[int]) -> list[Part]:
        """Return the parts of a row that holds these examples."""
        return parts_of(ordinals, self.lengths, self.beginnings)

    def labels_in(self, parts: Sequence[Part]) -> int:
        """Count the positions of a row of these parts that have a label; one in common counts once."""
        count, shared = 0, dict[int, set[int]]()
        for part in parts:
            if part.after >= 0:
                at = np.flatnonzero(self.read(part.ordinal)[1] != -100)
                count += int((at > part.start).sum())
                shared.setdefault(part.after, set()).update(at[at <= part.start].tolist())
            elif part.end == self.lengths[part.ordinal]:
                count += int(self.trained[part.ordinal])
        return count + sum(map(len, shared.values()))

    def read(self, ordinal: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the token ids of one example, and its labels: -100 where the token is not trained on."""
        ids = self.tokens[self.starts[ordinal] : self.starts[ordinal + 1]].astype(np.int64)
        labels = np.full_like(ids, -100)
        spans = self.spans[self.span_starts[ordinal] : self.span_starts[ordinal + 1]]
        for start, end in spans.reshape(-1, 2):
            labels[start:end] = ids[start:end]
        return ids, labels


def open_split(mixture: Path, split: str, scratch: Path) -> Examples | None:
    """Return the split's examples, or None if the mixture has none. Raises UserError on a broken shard.

    Token ids go through an unlinked file in `scratch`, so that a large mixture does not live in memory.
    """
    import pyarrow as pa

    files = shard_files(mixture, split)
    lengths: list[NDArray[np.int64]] = []
    spans: list[NDArray[np.int32]] = []
    span_lengths: list[NDArray[np.int64]] = []
    shards: list[int] = []
    with tempfile.TemporaryFile(dir=scratch) as file:
        for shard in files:
            try:
                rows = _read_shard(shard, file, lengths, spans, span_lengths)
            except (OSError, KeyError, pa.ArrowException) as error:
                raise UserError(f"shard cannot be read: {error}", file=shard, fix=WAY_OUT) from None
            shards.append(rows)
        if not sum(shards):
            return None
        file.flush()
        tokens = np.memmap(file, dtype=np.int32, mode="r")
    return _checked(
        Examples(
            tokens,
            _starts(lengths),
            np.concatenate(spans),
            _starts(span_lengths),
            tuple(s for s in shards if s),
        ),
        mixture / split,
    )


def shard_files(mixture: Path, split: str) -> list[Path]:
    return sorted((mixture / split).glob("shard-*.parquet"))


def read_records(mixture: Path, split: str = "train") -> list[str]:
    """Return what each example was made of, by ordinal: `<source>:<row>`, the row's number in the data set's
    split or in the corpus' part, whose evidence says which record that is. A mixture of an older version has
    the record's leaf.
    """
    import pyarrow.parquet as pq

    found: list[str] = []
    for file in shard_files(mixture, split):
        shard = pq.ParquetFile(file)
        if "row" not in shard.schema_arrow.names:
            found += shard.read(columns=["record"])["record"].to_pylist()
            continue
        columns = shard.read(columns=["source", "row"]).to_pydict()
        found += [f"{s}:{row}" for s, row in zip(columns["source"], columns["row"], strict=True)]
    return found


def _read_shard(
    shard: Path,
    file: IO[bytes],
    lengths: list[NDArray[np.int64]],
    spans: list[NDArray[np.int32]],
    span_lengths: list[NDArray[np.int64]],
) -> int:
    """Append the shard's rows to `file` and the lists; how many there were."""
    import pyarrow.compute as pc

    from ft_dagster.data.files.tables import open_table

    rows = 0
    for batch in open_table(shard).iter_batches(READ_ROWS, columns=["input_ids", "trained_spans"]):
        ids, trained = batch.column("input_ids"), batch.column("trained_spans")
        lengths.append(pc.list_value_length(ids).to_numpy(zero_copy_only=False).astype(np.int64))
        span_lengths.append(pc.list_value_length(trained).to_numpy(zero_copy_only=False).astype(np.int64))
        file.write(ids.flatten().to_numpy(zero_copy_only=False).astype(np.int32).tobytes())
        spans.append(trained.flatten().to_numpy(zero_copy_only=False).astype(np.int32))
        rows += len(batch)
    return rows


def _starts(lengths: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)


def _checked(examples: Examples, place: Path) -> Examples:
    """Return the examples once checked: spans must lie inside their example and leave out its first token,
    which nothing predicts.
    """
    first, last = examples.spans[::2], examples.spans[1::2]
    if len(first) != len(last) or (np.diff(examples.span_starts) % 2).any():
        raise UserError("trained_spans are not (start, end) pairs", file=place, fix=WAY_OUT)
    owner_lengths = np.repeat(examples.lengths, np.diff(examples.span_starts) // 2)
    wrong = (first < 1) | (last <= first) | (last > owner_lengths)
    if wrong.any():
        span = (int(first[wrong][0]), int(last[wrong][0]))
        raise UserError("a trained span lies outside its example", file=place, value=span, fix=WAY_OUT)
    if (examples.lengths < 1).any():
        raise UserError("an example has no tokens", file=place, fix=WAY_OUT)
    return examples
