"""Write the shards of a mixture: tokenized examples in Parquet, at most 256 MB a file, counted and hashed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from ft_dagster.data.files.tables import TableWriter
from ft_dagster.data.mixture.mixture_figures import ShardFigures, SourceFigures, SplitFigures
from ft_dagster.objectives import Rendered
from ft_dagster.provenance.digest import sha256_file

SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("trained_spans", pa.list_(pa.int32())),
        ("source", pa.string()),
        ("row", pa.int64()),
    ]
)
SHARD_BYTES = 200_000_000  # before compression, so that a file stays below 256 MB whatever its content
COUNTS = ("examples", "tokens", "trained_tokens")


class SplitWriter:
    """Writes one split of a mixture.

    `row` is where an example's row or document stands: its number in the data set's split, or in the corpus'
    part. `documents` counts those: the chunks of one follow each other.
    """

    def __init__(self, folder: Path, split: str, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder, self._split, self._shard_bytes = folder, split, shard_bytes
        self._table: TableWriter | None = None
        self._shard = dict.fromkeys(COUNTS, 0)
        self._shards: list[ShardFigures] = []
        self.by_source: dict[str, dict[str, int]] = {}
        self._last_row: dict[str, int] = {}
        self.longest = 0

    def add(self, example: Rendered, source: str, row: int) -> None:
        flat = [position for span in example.spans for position in span]
        columns = {"input_ids": example.input_ids, "trained_spans": flat, "source": source, "row": row}
        if self._table is None:
            path = self._folder / self._name()
            self._table = TableWriter(path, SCHEMA, rows=256, nbytes=1_000_000)
        self._table.add(columns, 4 * (len(example.input_ids) + len(flat)) + len(source.encode()) + 8)
        counts = self.counts_of(source)
        for name, n in zip(COUNTS, (1, len(example.input_ids), example.trained_tokens), strict=True):
            counts[name] += n
            self._shard[name] += n
        counts["documents"] += row != self._last_row.get(source)
        counts["truncated"] += example.truncated
        self._last_row[source] = row
        self.longest = max(self.longest, len(example.input_ids))
        if self._table.nbytes >= self._shard_bytes:
            self._close_shard()

    def counts_of(self, source: str) -> dict[str, int]:
        return self.by_source.setdefault(source, dict.fromkeys((*COUNTS, "documents", "truncated"), 0))

    def total(self, name: str) -> int:
        return sum(counts[name] for counts in self.by_source.values())

    def close(self) -> SplitFigures:
        """Close the last shard; returns the split's part of mixture.json."""
        if self._table is not None:
            self._close_shard()
        totals = {name: self.total(name) for name in (*COUNTS, "documents")}
        by_source = {source: SourceFigures(**counts) for source, counts in sorted(self.by_source.items())}
        return SplitFigures(**totals, shards=tuple(self._shards), by_source=by_source)

    def _name(self) -> str:
        return f"{self._split}/shard-{len(self._shards):05d}.parquet"

    def _close_shard(self) -> None:
        assert self._table is not None
        self._table.close()
        name = self._name()
        sha256 = sha256_file(self._folder / name)
        self._shards.append(ShardFigures(file=name, **self._shard, sha256=sha256))
        self._table, self._shard = None, dict.fromkeys(COUNTS, 0)
