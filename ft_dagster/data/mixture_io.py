"""Read a mixture: stream a split, its lengths, or any example by (shard, row); knows only the file format."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyarrow.parquet import ParquetFile

from ft_dagster.data.mixture_figures import SCHEMA_VERSION, MixtureFigures
from ft_dagster.errors import UserError
from ft_dagster.schema_version import refuse_newer

Int32 = NDArray[np.int32]


class Example(NamedTuple):
    """One unpacked example. `trained_spans` has shape (n, 2): half open ranges of labelled positions."""

    input_ids: Int32
    trained_spans: Int32
    source: str
    record: str


def read_mixture(folder: Path) -> MixtureFigures:
    """mixture.json. Raises UserError where this version cannot read it."""
    file = folder / "mixture.json"
    if not file.is_file():
        raise UserError("no mixture there", file=folder, fix="Materialize training_mixture")
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    refuse_newer(content["schema_version"], SCHEMA_VERSION, file=file)
    return MixtureFigures.from_json(content)


def shard_files(folder: Path, split: str) -> list[Path]:
    """The shards of "train", "validation" or "general_holdout", in order."""
    return [folder / shard.file for shard in read_mixture(folder).splits[split].shards]


def iter_examples(folder: Path, split: str) -> Iterator[Example]:
    """Every example of a split in the order of the files; memory holds one row group."""
    for file in shard_files(folder, split):
        with ParquetFile(file) as shard:
            for group in range(shard.num_row_groups):
                columns = _columns(shard.read_row_group(group))
                yield from (_example(columns, row) for row in range(len(columns["source"])))


def lengths(folder: Path, split: str) -> tuple[Int32, Int32]:
    """(tokens, trained tokens) of each example of a split, in the order of the files."""
    tokens, trained = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for file in shard_files(folder, split):
        with ParquetFile(file) as shard:
            for group in range(shard.num_row_groups):
                columns = _columns(shard.read_row_group(group, columns=["input_ids", "trained_spans"]))
                tokens.append(np.diff(columns["input_ids"][1]).astype(np.int32))
                trained.append(_trained(*columns["trained_spans"]))
    return np.concatenate(tokens), np.concatenate(trained)


class SplitReader:
    """Random access to a split's examples by (shard, row); memory holds `cached` row groups of about 1 MB."""

    def __init__(self, folder: Path, split: str, cached: int = 64) -> None:
        self._shards = [ParquetFile(file) for file in shard_files(folder, split)]
        self._starts = [_group_starts(shard) for shard in self._shards]
        self._groups: OrderedDict[tuple[int, int], dict[str, Any]] = OrderedDict()
        self._cached = cached

    @property
    def rows(self) -> list[int]:
        """Examples of each shard."""
        return [int(starts[-1]) for starts in self._starts]

    def read(self, shard: int, row: int) -> Example:
        """Raises IndexError."""
        starts = self._starts[shard]
        if not 0 <= row < starts[-1]:
            raise IndexError(f"shard {shard} has {starts[-1]} rows, not a row {row}")
        group = int(np.searchsorted(starts, row, side="right")) - 1
        return _example(self._group(shard, group), row - int(starts[group]))

    def close(self) -> None:
        for shard in self._shards:
            shard.close()

    def _group(self, shard: int, group: int) -> dict[str, Any]:
        key = (shard, group)
        if key not in self._groups:
            self._groups[key] = _columns(self._shards[shard].read_row_group(group))
            if len(self._groups) > self._cached:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]


def _group_starts(shard: Any) -> NDArray[np.int64]:
    sizes = [shard.metadata.row_group(i).num_rows for i in range(shard.num_row_groups)]
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])


def _columns(table: Any) -> dict[str, Any]:
    """Columns of a row group: lists as (values, offsets), strings as lists."""
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if name in ("input_ids", "trained_spans"):
            columns[name] = (column.values.to_numpy(), column.offsets.to_numpy())
        else:
            columns[name] = column.to_pylist()
    return columns


def _example(columns: dict[str, Any], row: int) -> Example:
    (ids, id_at), (spans, span_at) = columns["input_ids"], columns["trained_spans"]
    return Example(
        ids[id_at[row] : id_at[row + 1]],
        spans[span_at[row] : span_at[row + 1]].reshape(-1, 2),
        columns["source"][row],
        columns["record"][row],
    )


def _trained(spans: Int32, offsets: Int32) -> Int32:
    """Labelled positions of each example, from the flattened spans of a row group."""
    pairs = spans.reshape(-1, 2)
    sums = np.concatenate([[0], np.cumsum(pairs[:, 1] - pairs[:, 0])])
    return np.diff(sums[offsets // 2]).astype(np.int32)
