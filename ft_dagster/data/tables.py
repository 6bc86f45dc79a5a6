"""Parquet files written row by row: zstd, bounded row groups, equal rows give equal bytes."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
from pyarrow.parquet import ParquetWriter


class TableWriter:
    """Write dictionaries to one Parquet file; memory holds one row group."""

    def __init__(self, path: Path, schema: Any, *, rows: int = 1024, nbytes: int = 4_000_000) -> None:
        """`rows` and `nbytes` bound a row group; `nbytes` counts what `add` is told."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._schema, self._most_rows, self._most_bytes = schema, rows, nbytes
        self._writer = ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[dict[str, Any]] = []
        self._waiting_bytes = 0
        self.rows = 0
        self.nbytes = 0

    def add(self, row: dict[str, Any], nbytes: int) -> None:
        """Add a row of about `nbytes` bytes."""
        self._waiting.append(row)
        self._waiting_bytes += nbytes
        self.rows += 1
        self.nbytes += nbytes
        if len(self._waiting) >= self._most_rows or self._waiting_bytes >= self._most_bytes:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
        self._waiting, self._waiting_bytes = [], 0

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close() if kind is None else self._writer.close()
