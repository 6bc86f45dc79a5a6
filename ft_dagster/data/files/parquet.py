"""Read Parquet files as Python values, by DuckDB: without PyArrow, which only writes and trains.

`columns`: names, or where it says SQL, expressions over them. A file is a parameter of a query, never text
of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 512  # rows that are read together: documents among them, which may be long
# A folder named a=b is no column, one named a* no pattern, and nothing is fetched to read a file.
_TABLE = "read_parquet(?, hive_partitioning = false, file_row_number = {numbered})"
_SETTINGS = {
    "threads": 1,
    "async_threads": 0,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


def column_names(file: Path) -> list[str]:
    """Raises UserError for a file that is none of Parquet, here and below."""
    return _names(file, _query(file, "*", "LIMIT 0"))


def rows_of(file: Path, *columns: str) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the values of these columns (SQL) of each row, in batches; streamed."""
    found = _query(file, ", ".join(columns))
    while batch := _fetched(file, found.fetchmany, BATCH):
        yield batch


def dicts_of(file: Path, *columns: str) -> Iterator[dict[str, Any]]:
    """Yield each row by column, all of them where none is named; streamed."""
    names = columns or column_names(file)
    for batch in rows_of(file, *map(quoted, names)):
        yield from (dict(zip(names, row, strict=True)) for row in batch)


def arrays_of(file: Path, *columns: str) -> list[NDArray[Any]]:
    """Return whole columns (SQL); one with a null holds Python objects, None among them."""
    found = _fetched(file, _query(file, ", ".join(columns)).fetchnumpy)
    return [_plain(array) for array in found.values()]


def count_of(file: Path) -> int:
    """Return the number of rows, by the file's footer."""
    [[rows]] = _fetched(file, _query(file, "count(*)").fetchall)
    return int(rows)


def row_of(file: Path, number: int) -> dict[str, Any] | None:
    """Return one row by column; None where the file has fewer. Its row group alone is read."""
    found = _query(file, "* EXCLUDE (file_row_number)", "WHERE file_row_number = ?", number)
    row = _fetched(file, found.fetchone)
    return None if row is None else dict(zip(_names(file, found), row, strict=True))


def quoted(name: str) -> str:
    """Return a column's name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def _query(file: Path, columns: str, end: str = "", *values: object) -> Any:
    table = _TABLE.format(numbered=str("file_row_number" in end).lower())
    cursor = _database(os.getpid()).cursor()
    return _fetched(
        file, cursor.execute, f"SELECT {columns} FROM {table} {end}", [escape(str(file)), *values]
    )


def _names(file: Path, found: Any) -> list[str]:
    return [str(column[0]) for column in _fetched(file, lambda: found.description)]


def _fetched(file: Path, call: Any, *given: Any) -> Any:
    import duckdb

    try:
        return call(*given)
    except (duckdb.Error, RuntimeError, ValueError) as error:  # the latter of names and texts of other bytes
        if type(error) is RuntimeError and "interrupted" in str(error):
            raise KeyboardInterrupt from None  # by a signal; what its handler raised is lost
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"a Parquet file that cannot be read ({said})", file=file, fix="Restore it from a backup"
        ) from None


@cache
def _database(process: int) -> Any:
    """Open a database in the memory of each process, and without threads, which a fork would lose."""
    import duckdb

    return duckdb.connect(config=_SETTINGS)


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    if not isinstance(array, np.ma.MaskedArray):
        return array
    plain = np.array(array.data, object)
    plain[array.mask] = None
    return plain
