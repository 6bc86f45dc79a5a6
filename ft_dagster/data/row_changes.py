"""Which rows a task data set has, by their identities: to count what two of them have in common."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from ft_dagster.data.dataset_io import ORIGINS


def split_identities(evidence: Path) -> dict[str, set[bytes]]:
    """By split, of a data set's evidence folder; empty of one from before identities were kept."""
    from pyarrow.parquet import ParquetFile

    file, found = evidence / ORIGINS, defaultdict[str, set[bytes]](set)
    if not file.is_file():
        return {}
    with ParquetFile(file) as table:
        for batch in table.iter_batches(columns=["split", "identity"]):
            for split, identity in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                found[split].add(bytes.fromhex(identity))
    return dict(found)
