"""Reads what the rows of a task data set are known by, to count what two of them have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ft_dagster.data.files.parquet import rows_of
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.data.rows.rows import Row


def split_names(rows: Path, column: str) -> dict[str, set[bytes]]:
    """Return what a column of rows.parquet knows the rows by, by split."""
    found = defaultdict[str, set[bytes]](set)
    for batch in rows_of(rows, "split", column):
        for split, name in batch:
            found[split].add(bytes.fromhex(name))
    return dict(found)


def known_now(known: Iterable[bytes], rows: Iterable[Row]) -> dict[bytes, bytes]:
    """Return what rows are known by in this version -> what they are known by, which in an older data set is
    identity 1 of all. `rows`: the rows themselves; what is not among them is as it is.
    """
    found = {one: one for one in known}
    for row in rows:
        if row.identity not in found and row.identity_1 in found:
            found[row.identity] = found.pop(row.identity_1)
    return found


def identities_now(payload: Path) -> dict[str, set[bytes]]:
    """Return the identities by split as this version makes them, by the rows of a data set's payload. Raises
    UserError.
    """
    files = sorted(payload.glob("*.parquet"))
    return {file.stem: {row.identity for row in read_split(file)} for file in files}
