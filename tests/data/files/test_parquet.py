"""Reading Parquet files without PyArrow: what it writes is read as it says, and what is none is one error."""

from __future__ import annotations

import multiprocessing
import random
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ft_dagster.data.files.parquet import BATCH, arrays_of, column_names, dicts_of, quoted, row_of, rows_of
from ft_dagster.errors import UserError

TEXTS = ["a\0b", "\u2028", "é\ud7ff", '\x1f"\\', "", None, "𝕏", "\r\n"]
TABLE = pa.table(
    {
        "row": pa.array([1, None, 3, -4, 2**62, 0, 7, 8], pa.int64()),
        "large": pa.array(TEXTS, pa.large_string()),
        "coded": pa.array(TEXTS).dictionary_encode(),
        'a "name"': pa.array([True, None] * 4),
        "many": pa.array([["x", None], [], None, ["y"]] * 2),
        "hash": pa.array([bytes(32)] * 8, pa.binary(32)),
        "figure": pa.array([0.1, None, -0.0, 1e300] * 2),
    }
)


def stored(folder: Path, table: Any = TABLE, **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, folder / "rows.parquet", **options)
    return folder / "rows.parquet"


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_rows_are_as_pyarrow_wrote_them(tmp_path: Path, compression: str, version: str) -> None:
    file = stored(tmp_path, compression=compression, data_page_version=version, row_group_size=3)
    assert column_names(file) == TABLE.column_names
    assert list(dicts_of(file)) == TABLE.to_pylist()
    assert [row_of(file, number) for number in range(8)] == TABLE.to_pylist()
    assert row_of(file, 8) is None


@pytest.mark.parametrize(
    ("name", "beside"),
    [("split=train", "b"), ("a*", "ab"), ("a?", "ab"), ("[c]", "c"), ("{c,d}", "c"), ("it's; DROP", "b")],
)
def test_a_folder_may_have_any_name(tmp_path: Path, name: str, beside: str) -> None:
    stored(tmp_path / beside, pa.table({"other": [1]}))
    assert list(dicts_of(stored(tmp_path / name))) == TABLE.to_pylist()


def test_columns_are_arrays_with_none_where_nothing_is(tmp_path: Path) -> None:
    row, large, given = arrays_of(stored(tmp_path), quoted("row"), "large", quoted('a "name"'))
    assert (row.tolist(), large.tolist()) == (TABLE.column("row").to_pylist(), TEXTS)
    assert given.tolist() == [True, None] * 4
    [whole] = arrays_of(stored(tmp_path, pa.table({"n": range(5)})), "n")
    assert whole.dtype == np.int64
    assert whole.tolist() == list(range(5))


def test_rows_come_in_their_order_and_in_batches(tmp_path: Path) -> None:
    count = 3 * BATCH + 5
    file = stored(tmp_path, pa.table({"n": range(count)}), row_group_size=1000)
    batches = list(rows_of(file, "n"))
    assert [n for batch in batches for (n,) in batch] == list(range(count))
    assert [len(batch) for batch in batches] == [BATCH, BATCH, BATCH, 5]
    assert row_of(file, count - 1) == {"n": count - 1}


def test_a_file_without_rows_has_its_columns(tmp_path: Path) -> None:
    file = stored(tmp_path, TABLE.slice(0, 0))
    assert (column_names(file), list(dicts_of(file)), row_of(file, 0)) == (TABLE.column_names, [], None)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no Parquet file", bytes(5000)])
def test_what_is_no_parquet_file_is_one_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"rows\.parquet: a Parquet file that cannot be read"):
        list(dicts_of(tmp_path / "rows.parquet"))


def test_so_is_a_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows\.parquet.*nowhere"):
        list(rows_of(stored(tmp_path), "nowhere"))


@pytest.mark.slow
def test_a_damaged_file_is_read_or_refused_in_one_error(tmp_path: Path) -> None:
    content = stored(tmp_path, row_group_size=3).read_bytes()
    draw, refused = random.Random(7), dict[str, str]()
    for number in range(300):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file = tmp_path / f"{number}.parquet"
        file.write_bytes(damaged)
        try:
            list(dicts_of(file))
        except UserError as error:
            refused[file.name] = str(error)
    assert len(refused) > 50
    assert all(f"{name}: a Parquet file that cannot be read" in said for name, said in refused.items())


@pytest.mark.parametrize("name", [b"name\xff", b"\xfeow", b"name\xc3"])
def test_so_is_one_whose_names_are_no_text(tmp_path: Path, name: bytes) -> None:
    file = stored(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content.replace(b"large" if len(name) == 5 else b"row", name))
    with pytest.raises(UserError, match=r"rows\.parquet: a Parquet file that cannot be read"):
        list(dicts_of(file))


def _sum(file: Path) -> int:
    return sum(n for batch in rows_of(file, "n") for (n,) in batch)


FRESH = """
import os, sys
from pathlib import Path
import duckdb
from ft_dagster.data.files.parquet import dicts_of
def peak() -> int:
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024
def threads() -> int:
    return len(os.listdir("/proc/self/task"))
file, before, others = Path(sys.argv[1]), peak(), threads()
rows = sum(1 for _ in dicts_of(file))
print(rows, peak() - before, threads() - others)
"""


@pytest.mark.slow
def test_who_reads_has_no_thread_to_lose_in_a_fork_and_few_documents_at_a_time(tmp_path: Path) -> None:
    """Of 300 MB of them."""
    file, texts = tmp_path / "rows.parquet", pa.table({"text": ["long" * 25_000] * 40})
    with parquet.ParquetWriter(file, texts.schema) as writer:
        for _ in range(75):
            writer.write_table(texts)
    program = [sys.executable, "-c", FRESH, str(file)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    rows, megabytes, threads = map(int, done.stdout.split())
    assert (rows, threads) == (3000, 0)
    assert megabytes < 230


@pytest.mark.slow
def test_a_signal_while_it_reads_ends_it_as_it_ends_python(tmp_path: Path) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            list(rows_of(stored(tmp_path), "(SELECT count(DISTINCT range::VARCHAR) FROM range(50_000_000))"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
def test_a_process_that_forked_reads_by_itself(tmp_path: Path) -> None:
    file = stored(tmp_path, pa.table({"n": range(20_000)}))
    assert _sum(file) == sum(range(20_000))
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, fork) as pool:  # ends its processes in order: SIGTERM may be caught by now
        assert list(pool.map(_sum, [file] * 4)) == [sum(range(20_000))] * 4
