"""Reads which rows a task data set has, by their identities, to count what two of them have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ft_dagster.data.files.parquet import rows_of
from ft_dagster.data.rows.dataset_io import ORIGINS, read_split
from ft_dagster.data.rows.rows import Row


def split_identities(evidence: Path) -> dict[str, set[bytes]]:
    """Return the identities by split, of a data set's evidence folder; empty of one from before identities
    were kept.
    """
    file, found = evidence / ORIGINS, defaultdict[str, set[bytes]](set)
    if not file.is_file():
        return {}
    for batch in rows_of(file, "split", "identity"):
        for split, identity in batch:
            found[split].add(bytes.fromhex(identity))
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


def splits_known_now(splits: dict[str, set[bytes]], payload: Path) -> dict[str, set[bytes]]:
    """Return the identities by split as this version makes them, by the rows of a data set's payload."""
    return {
        split: set(known_now(known, read_split(payload / f"{split}.parquet")))
        for split, known in splits.items()
    }
