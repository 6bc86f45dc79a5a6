"""Reading a mixture's shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_dagster.data.mixture.shards import SplitWriter
from ft_dagster.errors import UserError
from ft_dagster.objectives import Rendered
from ft_dagster.training.batches.mixture import open_split, read_records
from tests.training.runs import Row, leaf, made_rows, write_shard


def test_examples_come_back_in_the_order_of_shards_and_rows(tmp_path: Path) -> None:
    rows = made_rows(20, seed=4)
    write_shard(tmp_path / "train/shard-00000.parquet", "train", 0, rows[:12])
    write_shard(tmp_path / "train/shard-00001.parquet", "train", 12, rows[12:])
    examples = open_split(tmp_path, "train", tmp_path)
    assert examples is not None
    assert [examples.read(i)[0].tolist() for i in range(20)] == [ids for ids, _ in rows]
    assert examples.shards == (12, 8)


def test_only_the_trained_spans_have_labels(tmp_path: Path) -> None:
    write_shard(tmp_path / "train/shard-00000.parquet", "train", 0, [([5, 6, 7, 8, 9], [1, 2, 4, 5])])
    examples = open_split(tmp_path, "train", tmp_path)
    assert examples is not None
    assert examples.read(0)[1].tolist() == [-100, 6, -100, -100, 9]


def test_records_are_listed_by_ordinal_over_the_shards(tmp_path: Path) -> None:
    rows = made_rows(3, seed=4)
    write_shard(tmp_path / "train/shard-00000.parquet", "train", 0, rows[:2])
    write_shard(tmp_path / "train/shard-00001.parquet", "train", 2, rows[2:])
    assert read_records(tmp_path) == [leaf("train", i) for i in range(3)]


def test_an_example_is_named_by_its_source_and_row(tmp_path: Path) -> None:
    writer = SplitWriter(tmp_path, "train")
    for source, row in (("data.sources[0]", 4), ("general:prose", 7), ("general:prose", 7)):
        writer.add(Rendered([1, 2, 3], ((1, 3),)), source, row)
    writer.close()
    assert read_records(tmp_path) == ["data.sources[0]:4", "general:prose:7", "general:prose:7"]
    assert open_split(tmp_path, "train", tmp_path) is not None


def test_a_split_that_the_mixture_lacks_is_none(tmp_path: Path) -> None:
    assert open_split(tmp_path, "validation", tmp_path) is None


@pytest.mark.parametrize("row", [([5, 6], [0, 1]), ([5, 6], [1, 3]), ([5, 6], [1, 1]), ([5, 6], [1])])
def test_a_span_that_cannot_be_is_refused(tmp_path: Path, row: Row) -> None:
    write_shard(tmp_path / "train/shard-00000.parquet", "train", 0, [([5, 6, 7], [1, 2]), row])
    with pytest.raises(UserError, match="span"):
        open_split(tmp_path, "train", tmp_path)


def test_a_broken_shard_is_named(tmp_path: Path) -> None:
    file = tmp_path / "train/shard-00000.parquet"
    file.parent.mkdir()
    file.write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"shard-00000\.parquet"):
        open_split(tmp_path, "train", tmp_path)
