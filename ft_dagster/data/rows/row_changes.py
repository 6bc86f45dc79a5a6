"""Reads which rows a task data set has, by their identities, to count what two of them have in common."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from ft_dagster.data.files.parquet import rows_of
from ft_dagster.data.rows.dataset_io import ORIGINS


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
