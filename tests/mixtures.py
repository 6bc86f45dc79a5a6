"""Reads the examples of a mixture, as the shards hold them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ft_dagster.data.mixture.mixture_io import shard_files


class Example(NamedTuple):
    """`trained_spans` has shape (n, 2): half open ranges of labelled positions."""

    input_ids: NDArray[np.int32]
    trained_spans: NDArray[np.int32]
    source: str
    row: int


def iter_examples(folder: Path, split: str) -> Iterator[Example]:
    """Every example of a split, in the order of the files."""
    for file in shard_files(folder, split):
        for row in pq.read_table(file).to_pylist():
            yield Example(
                np.array(row["input_ids"], np.int32),
                np.array(row["trained_spans"], np.int32).reshape(-1, 2),
                row["source"],
                row["row"],
            )
