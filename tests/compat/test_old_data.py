"""Rows, mixtures and samples of version 0.1 are read; they had leaves, salts and paths beside the content."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import parquet

from ft_dagster.data.rows.dataset_io import read_paths, read_split
from ft_dagster.gate.samples import read_samples
from ft_dagster.training.batches.mixture import open_split, read_records

TENANTS = Path(__file__).with_name("store_0_1") / "store" / "tenants"


def payloads(stage: str) -> list[Path]:
    return sorted(TENANTS.glob(f"*/*/{stage}/*/*/payload"))


@pytest.mark.parametrize("payload", payloads("task_dataset"), ids=lambda path: "/".join(path.parts[-6:-4]))
def test_rows_are_read_and_named_by_their_path(payload: Path) -> None:
    rows = list(read_split(payload / "train.parquet", read_paths(payload.parent / "evidence")))
    stored = parquet.read_table(payload / "train.parquet").to_pylist()
    assert len(rows) == len(stored) > 0
    assert len({row.identity for row in rows}) == len(rows)
    assert {row.named for row in rows} == {row["source"] for row in stored}


def test_the_examples_of_a_mixture_are_named_by_their_leaves(tmp_path: Path) -> None:
    leaves = {
        row["record"]
        for payload in payloads("task_dataset")
        for row in parquet.read_table(payload / "train.parquet").to_pylist()
    }
    for payload in payloads("training_mixture"):
        records = read_records(payload)
        assert open_split(payload, "train", tmp_path) is not None
        assert leaves & set(records)


def test_samples_stand_alone() -> None:
    for payload in payloads("evaluation"):
        assert {sample.group for sample in read_samples(payload)} == {None}
