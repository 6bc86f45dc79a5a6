"""Read a mixture: what it holds, its shards, the lengths of its examples; knows only the file format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.data.files.parquet import column_names, quoted, rows_of
from ft_dagster.data.mixture.mixture_figures import GENERAL, SCHEMA_VERSION, MixtureFigures
from ft_dagster.errors import UserError
from ft_dagster.schema_version import refuse_newer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Int32 = NDArray[np.int32]

HOLDOUT = "general_holdout"


def read_mixture(folder: Path) -> MixtureFigures:
    """Read mixture.json. Raises UserError where this version cannot read it."""
    file = folder / "mixture.json"
    if not file.is_file():
        raise UserError("no mixture there", file=folder, fix="Materialize training_mixture")
    content: dict[str, object] = json.loads(file.read_text("utf-8"))
    refuse_newer(content["schema_version"], SCHEMA_VERSION, file=file)
    return MixtureFigures.from_json(content)


def shard_files(folder: Path, split: str) -> list[Path]:
    """Return the shards of "train", "validation" or "general_holdout", in order."""
    return [folder / shard.file for shard in read_mixture(folder).splits[split].shards]


def held_out_documents(mixture: Path) -> int:
    """Count the documents of the held-out texts of a mixture's payload: the units by which a gate decides."""
    file = mixture / HOLDOUT / "texts.parquet"
    if not file.exists():
        return 0
    names = column_names(file)
    if "group" not in names:  # as version 0.1 wrote it
        return sum(map(len, rows_of(file, quoted(names[0]))))
    return len({group for batch in rows_of(file, quoted("group")) for (group,) in batch})


def origins_of(file: Path) -> set[tuple[str, str]]:
    """Return (declared path, file) of the records of a mixture's rows.parquet that are not of a general
    corpus.
    """
    rows = (row for batch in rows_of(file, "DISTINCT source, path, file") for row in batch)
    return {(path, file) for source, path, file in rows if not source.startswith(GENERAL)}


def trained_rows_of(file: Path) -> set[int]:
    """Return the numbers of the data set's training rows of which a mixture has examples, by its
    rows.parquet.
    """
    rows = (row for batch in rows_of(file, "split", "source", '"row"') for row in batch)
    return {number for split, source, number in rows if split == "train" and not source.startswith(GENERAL)}


def lengths(folder: Path, split: str) -> tuple[Int32, Int32]:
    """Return (tokens, trained tokens) of each example of a split, in the order of the files."""
    import numpy as np
    from pyarrow.parquet import ParquetFile

    tokens, trained = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for file in shard_files(folder, split):
        with ParquetFile(file) as shard:
            for group in range(shard.num_row_groups):
                columns = _columns(shard.read_row_group(group, columns=["input_ids", "trained_spans"]))
                tokens.append(np.diff(columns["input_ids"][1]).astype(np.int32))
                trained.append(_trained(*columns["trained_spans"]))
    return np.concatenate(tokens), np.concatenate(trained)


def _columns(table: Any) -> dict[str, Any]:
    """Return the columns of a row group: lists as (values, offsets), strings as lists."""
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if name in ("input_ids", "trained_spans"):
            columns[name] = (column.values.to_numpy(), column.offsets.to_numpy())
        else:
            columns[name] = column.to_pylist()
    return columns


def _trained(spans: Int32, offsets: Int32) -> Int32:
    """Count the labelled positions of each example, from the flattened spans of a row group."""
    import numpy as np

    pairs = spans.reshape(-1, 2)
    sums = np.concatenate([[0], np.cumsum(pairs[:, 1] - pairs[:, 0])])
    return np.diff(sums[offsets // 2]).astype(np.int32)
