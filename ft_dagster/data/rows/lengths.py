"""Measures how long the rows of a task data set are, in characters; read by columns, so millions take
seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

CONTENT = ("messages", "prompt", "completion", "text")  # columns of a split's file
SPLIT_FILES = ("train", "validation", "test")


class Lengths(NamedTuple):
    """Measures a split's rows, in characters of their whole content."""

    rows: int
    median: int
    most: int  # 95% of the rows are no longer
    longest: int


def row_lengths(payload: Path) -> dict[str, Lengths]:
    """Return the lengths by split, of those that have rows."""
    files = {name: payload / f"{name}.parquet" for name in SPLIT_FILES}
    found = {name: _lengths(file) for name, file in files.items() if file.is_file()}
    return {name: lengths for name, lengths in found.items() if lengths is not None}


def _lengths(file: Path) -> Lengths | None:
    import numpy as np
    import pyarrow.compute as pc

    from ft_dagster.data.files.tables import open_table

    parts: list[Any] = []
    with open_table(file) as table:
        for batch in table.iter_batches(columns=list(CONTENT)):
            columns = [pc.fill_null(pc.utf8_length(batch.column(name)), 0) for name in CONTENT]
            parts.append(np.sum([column.to_numpy(zero_copy_only=False) for column in columns], axis=0))
    if not sum(map(len, parts)):
        return None
    every = np.concatenate(parts)
    middle, most = (round(float(value)) for value in np.quantile(every, [0.5, 0.95]))
    return Lengths(len(every), middle, most, int(every.max()))
