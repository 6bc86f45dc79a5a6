"""That a record was never seen is proved by every record tree that it was held against."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest

from ft_dagster.audit.index.index import short
from ft_dagster.audit.proofs.absence import OLDER, and_held, held_against
from ft_dagster.audit.records import record
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.errors import UserError
from ft_dagster.provenance.merkle import leaf_hash, root_of
from ft_dagster.records.record_keys import keys_of
from ft_dagster.records.record_tree import TREE
from ft_dagster.stage_entries import GENERAL_CORPUS, TASK_DATASET, TRAINING_MIXTURE
from tests.audit.histories import History, question
from tests.audit.index_rows import edit_members
from tests.present import present

pytestmark = pytest.mark.slow

NOBODYS = json.dumps(question(999))


def test_the_record_would_be_between_two_leaves_of_every_tree(history: History) -> None:
    audit = history.audit()
    asked = parse_record(NOBODYS)
    held = held_against(audit, asked)
    assert {model.variant for model in held.models} == {"acme.one", "acme.child", "globex.two"}
    stages = [absence.stage for absence in held.absences]
    assert sorted(stages) == sorted(
        2 * [*[TASK_DATASET.name] * 3, *[TRAINING_MIXTURE.name] * 3, GENERAL_CORPUS.name]
    )  # as a row and as a text
    for absence in held.absences:
        assert not absence.unproved
        identity = bytes.fromhex(absence.identity)
        assert identity in asked.identities
        owner = (absence.variant or "").split(".", maxsplit=1)[0]
        key = keys_of(history.settings.keys_folder, owner).of_id(absence.key)
        assert key is not None
        lookup = key.lookup(identity).hex()
        assert all(one["index"] + 1 == other["index"] for one, other in pairwise(absence.leaves))
        sides = [leaf["lookup"] < lookup for leaf in absence.leaves]
        ends = {0: [False], absence.records - 1: [True]}
        assert sides in ([True, False], ends.get(absence.leaves[0]["index"]))
        for leaf in absence.leaves:
            data = bytes.fromhex(leaf["lookup"] + leaf["record"] + leaf["facts_sha256"])
            path = [bytes.fromhex(sibling) for sibling in leaf["path"]]
            root = root_of(leaf_hash(data), leaf["index"], absence.records, path)
            assert root is not None
            assert root.hex() == absence.root


def test_an_auditor_of_a_tenant_is_told_of_that_tenant_alone(history: History) -> None:
    held = held_against(history.audit(tenant="globex"), parse_record(NOBODYS))
    assert {absence.variant for absence in held.absences} == {"globex.two", None}
    assert {model.variant for model in held.models} == {"globex.two"}
    assert "acme" not in json.dumps(asdict(held))


def test_a_record_that_was_taken_out_of_the_index_is_noticed(history: History) -> None:
    audit = history.audit()
    asked = parse_record(json.dumps(question(3)))
    lookup = audit.keys("acme").current.lookup(asked.identities[0])
    edit_members(history.settings, lambda members: members[members["lookup"] != short(lookup)])
    with pytest.raises(UserError, match="a record that the index does not know"):
        held_against(audit, asked)


def test_nothing_is_called_never_seen_where_a_record_tree_cannot_be_read(history: History) -> None:
    audit = history.audit()
    asked = parse_record(NOBODYS)
    assert and_held(record(audit, asked), held_against(audit, asked)).equal is False
    [first, *_] = audit.index.of_stage(TASK_DATASET.name)
    tree = present(history.store.local(f"{audit.artifact(first).path}/evidence/{TREE}"))
    tree.write_bytes(tree.read_bytes()[:-1] + b"?")
    audit = history.audit()
    found = record(audit, asked)
    assert found.checked.unread == ()
    held = held_against(audit, asked)
    told = and_held(found, held)
    assert (told.equal, told.checked.unread) == (None, held.unread)
    [unread] = held.unread
    assert str(tree) in unread


def test_what_cannot_prove_it_says_why(history: History) -> None:
    keys = history.settings.keys_folder / "tenants" / "acme.json"
    held_against(history.audit(), parse_record(NOBODYS))
    keys.unlink()
    absences = held_against(history.audit(), parse_record(NOBODYS)).absences
    said = {absence.variant: absence.unproved for absence in absences}
    assert "that orders its records is lost" in said["acme.one"]
    assert (said["globex.two"], said[None]) == ("", "")


def test_what_is_older_than_record_trees_proves_nothing(tmp_path: Path) -> None:
    made = History(tmp_path / "old", "rows")
    made.mixture("acme.one", made.dataset("acme.one", [question(number) for number in range(30)]))
    held = held_against(made.audit(), parse_record(NOBODYS))
    assert [absence.unproved for absence in held.absences] == [OLDER, OLDER]


def test_the_trees_that_were_asked_for_last_stay_in_memory(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = history.audit()
    holders = [
        each for stage in (TASK_DATASET.name, TRAINING_MIXTURE.name) for each in audit.index.of_stage(stage)
    ]
    monkeypatch.setattr("ft_dagster.audit.audit.LEAVES_AT_ONCE", sum(each.records for each in holders[:2]))
    first, second, third = holders[:3]
    for each in (first, second, first, third):
        audit.leaves(each, audit.artifact(each))
    kept = audit.leaves(first, audit.artifact(first))
    assert second.id not in audit._leaves
    assert audit._leaves[first.id] is kept
    assert sum(map(len, audit._leaves.values())) <= first.records + second.records
