"""Parquet files tell what they hold, and not how they were written."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from ft_dagster.data.files.tables import TableWriter, open_table
from ft_dagster.provenance.digest import sha256_file

SCHEMA = pa.schema([("text", pa.string()), ("number", pa.int64())])
ROWS = [{"text": None if i % 7 == 0 else "word " * (i % 40), "number": i} for i in range(100)]
SIZES = [10 + 5 * (i % 40) for i in range(100)]


def one_by_one(path: Path) -> str:
    with TableWriter(path, SCHEMA, rows=16, nbytes=1500) as table:
        for row, size in zip(ROWS, SIZES, strict=True):
            table.add(row, size)
    return sha256_file(path)


@pytest.mark.parametrize("batch", [1, 3, 16, 33, 100])
def test_batches_are_the_same_bytes_as_rows_one_by_one(tmp_path: Path, batch: int) -> None:
    with TableWriter(tmp_path / "batches", SCHEMA, rows=16, nbytes=1500) as table:
        for first in range(0, len(ROWS), batch):
            rows = pa.RecordBatch.from_pylist(ROWS[first : first + batch], schema=SCHEMA)
            table.add_batch(rows, SIZES[first : first + batch])
    assert (table.rows, table.nbytes) == (len(ROWS), sum(SIZES))
    assert sha256_file(tmp_path / "batches") == one_by_one(tmp_path / "rows")


def test_rows_before_a_batch_stay_before_it(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "both", SCHEMA, rows=16, nbytes=1500) as table:
        table.add(ROWS[0], SIZES[0])
        table.add_batch(pa.RecordBatch.from_pylist(ROWS[1:99], schema=SCHEMA), SIZES[1:99])
        table.add(ROWS[99], SIZES[99])
    assert parquet.read_table(tmp_path / "both").to_pylist() == ROWS
    assert sha256_file(tmp_path / "both") == one_by_one(tmp_path / "rows")


def test_a_table_without_rows_is_a_file_with_its_columns(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "none", SCHEMA) as table:
        table.add_batch(pa.RecordBatch.from_pylist([], schema=SCHEMA), [])
    written = parquet.read_table(tmp_path / "none")
    assert (written.num_rows, written.schema) == (0, SCHEMA)


def test_a_table_that_is_read_in_batches_is_not_read_ahead(tmp_path: Path) -> None:
    """Of 8 MB that do not compress, in 128 row groups."""
    schema = pa.schema([("noise", pa.binary())])
    with TableWriter(tmp_path / "noise", schema, rows=64) as table:
        for _ in range(8192):
            table.add({"noise": os.urandom(1024)}, 1024)
    before, held = pa.total_allocated_bytes(), []
    with open_table(tmp_path / "noise") as table:
        for batch in table.iter_batches(64):
            held.append(pa.total_allocated_bytes() - before)
            assert len(batch) == 64
    assert len(held) == 128
    assert max(held) < 2_000_000
