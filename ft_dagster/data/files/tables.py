"""Writes Parquet files row by row or in batches, with zstd and bounded row groups, equal rows to equal bytes;
and opens them to be read in batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
from pyarrow.parquet import ParquetFile, ParquetWriter


def open_table(file: Path) -> Any:
    """Open a Parquet file to be read in batches. Left to itself, PyArrow reads all of it before the first one
    (`pre_buffer`) and keeps it to the last.
    """
    return ParquetFile(file, pre_buffer=False)


class TableWriter:
    """Write rows to one Parquet file; memory holds one row group. The bytes do not tell whether rows were
    added one by one or in batches.
    """

    def __init__(self, path: Path, schema: Any, *, rows: int = 1024, nbytes: int = 4_000_000) -> None:
        """Take the bounds of a row group: `rows` and `nbytes`; `nbytes` counts what `add` is told."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._schema, self._most_rows, self._most_bytes = schema, rows, nbytes
        self._writer = ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[Mapping[str, object]] = []
        self._batches: list[Any] = []  # before those
        self._waiting_rows = self._waiting_bytes = 0
        self.rows = 0
        self.nbytes = 0

    def add(self, row: Mapping[str, object], nbytes: int) -> None:
        """Add a row of about `nbytes` bytes."""
        self._waiting.append(row)
        if self._count(nbytes):
            self._flush()

    def add_batch(self, batch: Any, nbytes: Iterable[int]) -> None:
        """Add the rows of a record batch of the schema; `nbytes` has about the bytes of each."""
        self._gather()
        first = 0
        for after, size in enumerate(nbytes, 1):
            if self._count(size):
                self._batches.append(batch.slice(first, after - first))
                self._flush()
                first = after
        self._batches.append(batch.slice(first))

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _count(self, nbytes: int) -> bool:
        """Count a row of about `nbytes` bytes; returns whether its row group is full."""
        self._waiting_rows += 1
        self._waiting_bytes += nbytes
        self.rows += 1
        self.nbytes += nbytes
        return self._waiting_rows >= self._most_rows or self._waiting_bytes >= self._most_bytes

    def _gather(self) -> None:
        if self._waiting:
            self._batches.append(pa.RecordBatch.from_pylist(self._waiting, schema=self._schema))
            self._waiting = []

    def _flush(self) -> None:
        self._gather()
        if self._waiting_rows:
            self._writer.write_table(pa.Table.from_batches(self._batches, self._schema).combine_chunks())
        self._batches, self._waiting_rows, self._waiting_bytes = [], 0, 0

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close() if kind is None else self._writer.close()
