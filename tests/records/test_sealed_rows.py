"""Record evidence without unsalted identities: the same tree, the same mixtures, and nothing to look up by a
guessed text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ft_dagster.data.rows.dataset import build_task_dataset
from ft_dagster.data.rows.dataset_io import DROPPED, ORIGINS, read_split
from ft_dagster.errors import UserError
from ft_dagster.records.record_keys import EvidenceKeys, OwnerKeys, RecordKey
from ft_dagster.records.record_tree import RecordTree, check_tree, record_rows
from ft_dagster.records.sealed_rows import (
    StoredRows,
    bind_records,
    has_identities,
    identity_in,
    namer_of,
    seal_rows,
    shared_key_of,
    shared_names,
)
from ft_dagster.records.tree_growth import grow_tree

KEYS = EvidenceKeys(RecordKey(b"k" * 32, "2026-01-01"), RecordKey(b"s" * 32, "2026-01-01"))


@pytest.fixture
def evidence(project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any) -> Path:
    """The evidence of a data set; every tenth row is there twice."""
    write("faq.jsonl", [*questions, *questions[::10]])
    folder = tmp_path / "dataset"
    for part in ("payload", "evidence"):
        (folder / part).mkdir(parents=True)
    build_task_dataset(variant(), project, [], folder / "payload", evidence=folder / "evidence")
    return folder / "evidence"


def identities(evidence: Path) -> list[bytes]:
    payload = evidence.with_name("payload")
    return [row.identity for split in ("train", "validation", "test")
            for row in read_split(payload / f"{split}.parquet")]  # fmt: skip


def test_no_identity_is_left_and_the_tree_is_the_same(evidence: Path) -> None:
    grown = grow_tree(evidence, KEYS.own)
    head = bind_records(evidence, KEYS)
    assert head == grown
    for key in (KEYS.own, None):
        check_tree(evidence, head, key)
    assert sorted(file.name for file in evidence.iterdir()) == [
        "dataset.json", DROPPED, ORIGINS, "tree.parquet",
    ]  # fmt: skip
    guessed = {one.hex() for one in identities(evidence)} | set(identities(evidence))
    for name in (ORIGINS, DROPPED):
        assert not has_identities(evidence / name)
        columns = parquet.read_table(evidence / name).to_pydict()
        assert not guessed & {value for values in columns.values() for value in values}


def test_a_row_is_known_by_the_keys_and_by_its_salt_alone(evidence: Path) -> None:
    known = identities(evidence)
    head = bind_records(evidence, KEYS)
    rows = [row for batch in record_rows(evidence / ORIGINS) for row in batch]
    assert all(row.keyed for row in rows)
    assert {row.known for row in rows} == set(KEYS.own.lookups(known))
    shared = [name for batch in shared_names(evidence / ORIGINS, None) for name in batch]
    assert set(shared) == set(KEYS.shared.lookups(known))
    assert shared_key_of(evidence / ORIGINS) == KEYS.shared.id
    assert all(sum(row.is_of(one) for one in set(known)) == 1 for row in rows)
    name = namer_of(evidence / ORIGINS, OwnerKeys("acme", (KEYS.shared, KEYS.own)), head.key)
    assert name is not None
    assert name(known[0]) == KEYS.own.lookup(known[0])
    assert namer_of(evidence / ORIGINS, OwnerKeys("acme", (KEYS.shared,)), head.key) is None


def test_the_same_file_and_keys_give_the_same_bytes(evidence: Path, tmp_path: Path) -> None:
    """So that what was ended in the middle can be done again."""
    made = [tmp_path / "1", tmp_path / "2"]
    for to in made:
        seal_rows(evidence / ORIGINS, to, KEYS)
    assert made[0].read_bytes() == made[1].read_bytes()


def swap(name: str) -> Callable[[dict[str, list[Any]]], None]:
    def change(columns: dict[str, list[Any]]) -> None:
        columns[name][0], columns[name][1] = columns[name][1], columns[name][0]

    return change


@pytest.mark.parametrize("column", ["lookup", "record", "salt", "line"])
def test_what_was_forged_does_not_hold(evidence: Path, column: str) -> None:
    head, file = bind_records(evidence, KEYS), evidence / ORIGINS
    table = parquet.read_table(file)
    columns = table.to_pydict()
    swap(column)(columns)
    parquet.write_table(pa.table(columns, schema=table.schema), file)
    for key in (KEYS.own, None):
        with pytest.raises(UserError, match="is not what its leaf says"):
            check_tree(evidence, head, key)


def test_identities_are_made_again_of_the_rows_and_of_no_others(evidence: Path) -> None:
    bind_records(evidence, KEYS)
    tree = RecordTree.read(evidence)
    stored = StoredRows(read_split(evidence.with_name("payload") / "train.parquet"))
    rows = [(row, facts) for row, facts in map(tree.row, range(len(tree))) if facts.get("split") == "train"]
    for row, facts in sorted(rows, key=lambda one: one[1]["row"]):
        found = stored[facts["row"]]
        assert found is not None
        assert identity_in(found, row.record, row.salt) == found.identity
        assert identity_in(found, hashlib.sha256(b"another").digest(), row.salt) is None
    assert stored[10_000] is None
