"""Record trees: a leaf of every row, kept or dropped, in the order of lookups; what is altered does not
hold.
"""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ft_dagster.data.files.tables import TableWriter
from ft_dagster.data.mixture.mixture import MixtureParts, build_mixture
from ft_dagster.data.mixture.mixture_io import HOLDOUT
from ft_dagster.data.rows.corpus import build_general_corpus
from ft_dagster.data.rows.dataset import build_task_dataset
from ft_dagster.data.rows.dataset_io import DROPPED, ORIGINS, as_origin, read_split
from ft_dagster.data.rows.dataset_schema import ORIGINS_SCHEMA
from ft_dagster.data.rows.rows import Row, RowPlace
from ft_dagster.errors import UserError
from ft_dagster.provenance.merkle import leaf_hash, root_of
from ft_dagster.records import tree_growth
from ft_dagster.records.mixture_records import write_mixture_records
from ft_dagster.records.record_keys import RecordKey, keys_of
from ft_dagster.records.record_tree import (
    TREE,
    RecordTree,
    TreeHead,
    TreeLeaves,
    check_tree,
    record_row,
    record_rows,
)
from ft_dagster.records.tree_growth import grow_tree
from ft_dagster.spec.variant import CorpusSpec
from tests.mixtures import iter_examples

pytestmark = pytest.mark.slow

KEY = RecordKey(b"k" * 32, "2026-01-01")


@pytest.fixture
def dataset(project: Path, tmp_path: Path, write: Any, variant: Any, questions: Any) -> Path:
    """A folder with payload and evidence of a data set; every tenth row is there twice."""
    rows = [{**row, "licence": "CC0"} for row in questions]
    write("faq.jsonl", [*rows, *rows[::10]])
    folder = tmp_path / "dataset"
    for part in ("payload", "evidence"):
        (folder / part).mkdir(parents=True)
    build_task_dataset(variant(), project, [], folder / "payload", evidence=folder / "evidence")
    return folder


@pytest.fixture
def evidence(dataset: Path) -> Path:
    return dataset / "evidence"


def test_every_row_has_one_leaf_and_those_are_in_order(dataset: Path, evidence: Path) -> None:
    head = grow_tree(evidence, KEY)
    tree = RecordTree.read(evidence)
    assert (len(tree), head.size, head.key) == (44, 44, KEY.id)
    assert sum(tree.dropped) == 4
    lookups = [tree.lookup(at) for at in range(44)]
    assert lookups == sorted(lookups)
    assert tree.merkle.root.hex() == head.root
    kept = {row.identity for split in ("train", "validation", "test")
            for row in read_split(dataset / "payload" / f"{split}.parquet")}  # fmt: skip
    assert len(kept) == 40
    assert {KEY.lookup(identity) for identity in kept} == set(lookups)


def test_the_leaf_of_a_row_is_found_by_its_number_and_one_row_read_is_as_all_are(evidence: Path) -> None:
    grow_tree(evidence, KEY)
    leaves = TreeLeaves.of(RecordTree.read(evidence))
    places = set()
    for name in (ORIGINS, DROPPED):
        rows = [row for batch in record_rows(evidence / name) for row in batch]
        for number, row in enumerate(rows):
            alone, facts = record_row(evidence / name, number)
            assert (alone, json.loads(alone.facts)) == (row, facts)
            at = leaves.find(number, dropped=name == DROPPED)
            assert at is not None
            assert leaves.merkle.leaf(at) == row.leaf(KEY.lookup(row.known))
            places.add(at)
        assert leaves.find(len(rows), dropped=name == DROPPED) is None
    assert places == set(range(44))


def test_a_record_and_its_salt_lead_to_the_root(dataset: Path, evidence: Path) -> None:
    """By hashing alone, as a stranger would."""
    head, tree = grow_tree(evidence, KEY), RecordTree.read(evidence)
    for number, stored in enumerate(read_split(dataset / "payload" / "train.parquet")):
        [at, *_] = [at for at in tree.find(KEY.lookup(stored.identity)) if not tree.dropped[at]]
        row, facts = tree.row(at)
        assert (facts["split"], facts["row"], facts["licence"]) == ("train", number, "CC0")
        record = hashlib.sha256(row.salt + stored.identity).digest()
        leaf = tree.lookup(at) + record + hashlib.sha256(row.salt + row.facts.encode()).digest()
        assert root_of(leaf_hash(leaf), at, len(tree), tree.merkle.path(at)) == bytes.fromhex(head.root)
        assert row.facts == json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def test_what_was_dropped_is_a_leaf_with_its_reason(evidence: Path) -> None:
    grow_tree(evidence, KEY)
    tree = RecordTree.read(evidence)
    dropped = [tree.row(at)[1] for at in range(len(tree)) if tree.dropped[at]]
    assert sorted((facts["line"], facts["reason"]) for facts in dropped) == [
        (line, "duplicate") for line in (41, 42, 43, 44)
    ]


def test_a_record_that_is_absent_is_between_two_neighbours(evidence: Path) -> None:
    grow_tree(evidence, KEY)
    tree = RecordTree.read(evidence)
    for number in range(20):
        lookup = KEY.lookup(hashlib.sha256(f"{number}".encode()).digest())
        place = tree.find(lookup)
        assert not len(place)
        assert all(tree.lookup(at) < lookup for at in range(place.start))
        assert all(tree.lookup(at) > lookup for at in range(place.start, len(tree)))


def test_the_tree_is_the_same_every_time_and_another_by_another_key(evidence: Path, tmp_path: Path) -> None:
    first, bytes_ = grow_tree(evidence, KEY), (evidence / TREE).read_bytes()
    assert grow_tree(evidence, KEY) == first
    assert (evidence / TREE).read_bytes() == bytes_
    assert grow_tree(evidence, keys_of(tmp_path, "acme").current).root != first.root


@pytest.mark.parametrize("group", [1, 4, 8, 64])
def test_it_is_the_same_tree_in_row_groups_of_any_size(
    evidence: Path, monkeypatch: pytest.MonkeyPatch, group: int
) -> None:
    """44 leaves: of 4 without a rest, of 8 with one."""
    head, whole = grow_tree(evidence, KEY), parquet.read_table(evidence / TREE)
    monkeypatch.setattr(tree_growth, "GROUP", group)
    assert grow_tree(evidence, KEY) == head
    written = parquet.ParquetFile(evidence / TREE)
    assert written.num_row_groups == -(-44 // group)
    assert written.read() == whole
    check_tree(evidence, head, KEY)


def test_memory_does_not_grow_with_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(rows: int) -> int:
        evidence = tmp_path / str(rows)
        with TableWriter(evidence / ORIGINS, ORIGINS_SCHEMA) as table:
            for i in range(rows):
                row = Row("text", "data.sources[0]", text=f"{i}", place=RowPlace("a.jsonl", "a.jsonl", i, i))
                table.add({"split": "train", "row": i, "source": row.source, **as_origin(row)}, 300)
        tracemalloc.start()
        try:
            grow_tree(evidence, KEY)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    monkeypatch.setattr(tree_growth, "GROUP", 2**9)
    few, many = peak(4096), peak(16_384)
    assert many - few < 10 * (16_384 - 4096)  # bytes


def test_no_rows_have_the_root_of_nothing(tmp_path: Path) -> None:
    head = grow_tree(tmp_path, KEY)
    assert (head.size, head.root) == (0, hashlib.sha256().hexdigest())
    assert len(RecordTree.read(tmp_path)) == 0
    check_tree(tmp_path, head, KEY)


def test_strange_texts_are_facts_as_json_has_them(
    project: Path, tmp_path: Path, write: Any, variant: Any
) -> None:
    group = 'a "quoted"\n\\ group\u2028 \U0001f600'
    write(
        "faq.jsonl", [{"prompt": f"q{n}", "completion": "a", "group": group if n else None} for n in range(9)]
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "evidence").mkdir()
    spec = variant(splits={"validation": 0, "test": 0, "minimum": 1})
    build_task_dataset(spec, project, [], tmp_path / "out", evidence=tmp_path / "evidence")
    head, tree = grow_tree(tmp_path / "evidence", KEY), RecordTree.read(tmp_path / "evidence")
    found = [tree.row(at)[1] for at in range(len(tree))]
    assert sorted(str(facts["group"]) for facts in found) == sorted(["None", *[group] * 8])
    check_tree(tmp_path / "evidence", head, KEY)


Change = Callable[[dict[str, list[Any]]], None]


def rewrite(file: Path, change: Change) -> None:
    table = parquet.read_table(file)
    columns = table.to_pydict()
    change(columns)
    parquet.write_table(pa.table(columns, schema=table.schema), file)


def swap(name: str) -> Change:
    def change(columns: dict[str, list[Any]]) -> None:
        columns[name][0], columns[name][1] = columns[name][1], columns[name][0]

    return change


def drop_last(columns: dict[str, list[Any]]) -> None:
    for values in columns.values():
        values.pop()


FORGED: dict[str, tuple[str, Change]] = {
    "a leaf swapped": (TREE, swap("leaf")),
    "a lookup swapped": (TREE, swap("lookup")),
    "a leaf taken out": (TREE, drop_last),
    "a row taken out": (ORIGINS, drop_last),
    "a dropped row taken out": (DROPPED, drop_last),
    "a line of another row": (ORIGINS, swap("line")),
    "an identity of another row": (ORIGINS, swap("identity")),
    "a salt of another row": (ORIGINS, swap("salt")),
    "a reason changed": (DROPPED, lambda columns: columns["reason"].__setitem__(0, "never read")),
}


@pytest.mark.parametrize("forged", FORGED)
def test_what_was_forged_does_not_hold(evidence: Path, forged: str) -> None:
    head = grow_tree(evidence, KEY)
    check_tree(evidence, head, KEY)
    check_tree(evidence, head, None)
    name, change = FORGED[forged]
    rewrite(evidence / name, change)
    for key in (KEY, None):
        with pytest.raises(UserError, match=r"tree\.parquet"):
            check_tree(evidence, head, key)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("lookup", [b"short", b"x" * 32]),
        ("leaf", ["x" * 32, "y" * 32]),
        ("leaf", [b"x" * 32, None]),
        ("dropped", [True, None]),
        ("row", [0, None]),
        ("row", [0.0, 1.0]),
        ("row", ["0", "1"]),
    ],
)
def test_a_file_of_other_values_is_no_tree(tmp_path: Path, column: str, values: list[Any]) -> None:
    hashes = [b"a" * 32, b"b" * 32]
    columns = {"lookup": hashes, "leaf": hashes, "dropped": [False, False], "row": [0, 1], column: values}
    parquet.write_table(pa.table(columns), tmp_path / TREE)
    with pytest.raises(UserError, match=r"tree\.parquet: not a record tree"):
        RecordTree.read(tmp_path)


def test_a_tree_by_another_key_than_it_says_does_not_hold(evidence: Path) -> None:
    head = grow_tree(evidence, KEY)
    with pytest.raises(UserError, match="is not what its leaf says"):
        check_tree(evidence, head, RecordKey(b"o" * 32, ""))


def test_a_head_is_read_as_it_was_written_and_an_older_artifact_has_none(evidence: Path) -> None:
    head = grow_tree(evidence, KEY)
    assert TreeHead.of({"records": head.to_json()}) == head
    assert TreeHead.of({}) is None
    with pytest.raises(UserError, match="newer"):
        TreeHead.of({"records": {**head.to_json(), "schema_version": 2}})
    with pytest.raises(UserError, match="no record tree"):
        TreeHead.of({"records": {"schema_version": 1}})


@pytest.fixture
def corpus(project: Path, tmp_path: Path, write: Any) -> Path:
    """A folder with payload and evidence of a corpus, some documents of it in several pieces."""
    text = "The whale rose slowly beside the ship and the men stood silent. "
    lengths = (40 if n % 5 == 0 else 1 for n in range(60))
    write("general.jsonl", [{"text": f"Document {n}⁰. {text * length}"} for n, length in enumerate(lengths)])
    declared = CorpusSpec.model_validate({"description": "x", "sources": ["general.jsonl"], "holdout": 0.2})
    folder = tmp_path / "corpus"
    (folder / "evidence").mkdir(parents=True)
    build_general_corpus("general", declared, project, folder / "payload", evidence=folder / "evidence")
    return folder


def test_the_records_of_a_mixture_are_those_its_examples_were_made_of(
    tmp_path: Path, dataset: Path, corpus: Path, variant: Any, tiny_model_folder: Path
) -> None:
    spec, mixture, evidence = (
        variant(general={"corpus": "general", "share": 0.3}),
        tmp_path / "m",
        tmp_path / "e",
    )
    mixture.mkdir()
    evidence.mkdir()
    parts = MixtureParts(dataset / "payload", tiny_model_folder, corpus / "payload")
    build_mixture(spec, parts, 64, mixture)
    assert write_mixture_records(mixture, evidence, dataset / "evidence", corpus / "evidence")

    rows = parquet.read_table(evidence / ORIGINS).to_pylist()
    for split in ("train", "validation"):
        named = [(example.source, example.row) for example in iter_examples(mixture, split)]
        found = {(row["source"], row["row"]): row["examples"] for row in rows if row["split"] == split}
        assert found == {name: named.count(name) for name in set(named)}
    assert max(row["examples"] for row in rows) > 1  # a document in several pieces
    known = {
        (row["record"], row["line"], row["file"])
        for folder in (dataset, corpus)
        for row in parquet.read_table(folder / "evidence" / ORIGINS).to_pylist()
    }
    assert {(row["record"], row["line"], row["file"]) for row in rows} <= known
    texts = parquet.read_table(mixture / "general_holdout" / "texts.parquet").to_pylist()
    held = parquet.read_table(corpus / "payload" / "general" / "holdout.parquet")["text"].to_pylist()
    documents = {one.identity.hex(): one for one in (Row("text", "", text=text) for text in held)}
    asked = [documents[row["identity"]] for row in rows if row["split"] == HOLDOUT]
    assert {one.likeness.hex() for one in asked} == {text["group"] for text in texts}
    assert all(len(one.identities) == 2 for one in asked)
    check_tree(evidence, grow_tree(evidence, KEY), KEY)


def test_a_mixture_of_older_parts_has_no_record_evidence(tmp_path: Path, dataset: Path) -> None:
    (tmp_path / "older").mkdir()
    (tmp_path / "e").mkdir()
    assert not write_mixture_records(tmp_path, tmp_path / "e", dataset / "evidence", tmp_path / "older")
    assert list((tmp_path / "e").iterdir()) == []


def test_nor_has_one_of_a_data_set_whose_rows_have_no_source(tmp_path: Path, dataset: Path) -> None:
    """As version 2 wrote them."""
    (tmp_path / "e").mkdir()
    rows = dataset / "evidence" / ORIGINS
    parquet.write_table(parquet.read_table(rows).drop_columns(["source", "licence", "group"]), rows)
    assert not write_mixture_records(tmp_path, tmp_path / "e", dataset / "evidence", None)
    assert list((tmp_path / "e").iterdir()) == []
