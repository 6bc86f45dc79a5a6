"""What retention removed, and what was made again after it, is told, proved and verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.audit.audit import open_audit
from ft_dagster.audit.models import at, diff, model
from ft_dagster.audit.proofs.proof_check import check
from ft_dagster.audit.proofs.proof_form import ABSENCE, PRESENCE
from ft_dagster.audit.proofs.proofs import prove
from ft_dagster.audit.records import INHERITED, TRAINED, record
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.audit.traces import source
from ft_dagster.audit.trained import training_records
from ft_dagster.audit.verify.verify import verify
from ft_dagster.errors import UserError
from ft_dagster.records.record_keys import rotate
from ft_dagster.settings import Settings
from ft_dagster.store import Artifact
from ft_dagster.store.contents import contents_of
from ft_dagster.store.removal import DAY, claim_removal, finish_removal
from tests.audit.histories import History, question, this_moment

pytestmark = pytest.mark.slow
WITH_RECORDS = ("task_dataset", "general_corpus", "training_mixture", "fine_tuned_model")


def trained_row(history: History, variant: str) -> str:
    """A row, as JSON, that the newest model of a variant was trained on."""
    audit = history.audit()
    digest = audit.model(variant).digest
    for row in map(json.dumps, map(question, range(40))):
        found = record(audit, parse_record(row))
        if any((one.weights, one.how) == (digest, TRAINED) for one in found.models):
            return row
    raise AssertionError("no row was trained on")


def made_again(history: History) -> tuple[Artifact, Artifact]:
    """The data set and the weights of globex.two, removed and made again, the latter otherwise."""
    history.remove(*WITH_RECORDS)
    base = history.base()
    dataset = history.dataset("globex.two", [question(number) for number in range(20)])
    weights = history.model("globex.two", history.mixture("globex.two", dataset), base, seed=7)
    assert dataset.generation == 2
    history.release("globex.two", weights, base)
    return dataset, weights


def test_a_head_of_what_was_removed_holds_and_one_of_another_digest_does_not(history: History) -> None:
    history.remove(*WITH_RECORDS)
    assert verify(history.audit()).problems == ()
    head = history.folder / ".ft_dagster/store/shared/corpora/general/heads/general_corpus.json"
    head.write_text(json.dumps({**json.loads(head.read_text()), "digest": "0" * 64}))
    [line] = verify(history.audit()).problems
    assert "heads/general_corpus.json: nothing stands where it points" in line


@pytest.mark.parametrize("again", [False, True])
def test_what_was_made_again_is_known_beside_what_was_removed(history: History, again: bool) -> None:
    row = trained_row(history, "globex.two")
    before = history.audit().model("globex.two").digest
    _, weights = made_again(history)
    audit = history.audit(again=again)
    found = record(audit, parse_record(row))
    assert {before, weights.digest} <= {one.weights for one in found.models if one.how == TRAINED}
    assert audit.model("globex.two").digest == weights.digest
    assert at(audit, "globex.two", this_moment()).model.weights == weights.digest
    assert prove(audit, parse_record(row), audit.model("globex.two"))["kind"] == PRESENCE
    assert verify(audit).problems == ()


def test_the_manifest_of_what_was_made_again_is_named(history: History) -> None:
    dataset, _ = made_again(history)
    manifest = Path(history.store.uri(dataset.manifest_path))
    content = json.loads(manifest.read_text("utf-8"))
    del content["predicate"]["figures"]["records"]
    manifest.write_text(json.dumps(content), "utf-8")
    problems = verify(history.audit(again=True)).problems
    [line] = [line for line in problems if "a record tree without its root" in line]
    assert line.startswith(f"{manifest}: ")


def test_a_byte_of_what_was_made_again_is_noticed(history: History) -> None:
    dataset, _ = made_again(history)
    assert verify(history.audit()).holds
    file = Path(history.store.uri(dataset.path)) / "payload" / "train.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)
    assert any("other bytes" in line for line in verify(history.audit()).problems)


def test_what_was_removed_answers_and_says_so(history: History) -> None:
    trained = at(history.audit(), "acme.one", this_moment()).records
    history.remove(*WITH_RECORDS, "base_model", "evaluation")
    audit = history.audit()
    found = at(audit, "acme.one", this_moment())
    assert found.records == trained
    assert found.model.base["reference"] == "models/x"
    removed = {part.stage for part in found.model.parts if part.removed}
    assert removed == {*WITH_RECORDS, "base_model", "evaluation"}
    parent = model(audit, "acme.child").parent
    assert parent is not None
    assert (parent["gone"], bool(parent["removed"])) == (False, True)
    records = list(training_records(audit, audit.model("acme.one")))
    assert len(records) == trained
    assert all(one.content is None and one.facts and one.times == 3 for one in records)
    assert diff(audit, "acme.one", "acme.child").examples["removed"]


def test_a_proof_of_what_was_removed_holds(history: History, tmp_path: Path) -> None:
    row = trained_row(history, "acme.one")
    history.remove(*WITH_RECORDS)
    audit = history.audit()
    proof = tmp_path / "proof.json"
    proof.write_text(json.dumps(prove(audit, parse_record(row), audit.model("acme.one"))), "utf-8")
    found = check(proof, parse_record(row))
    assert (found.kind, found.manifest) == (PRESENCE, audit.model("acme.one").manifest)


def test_what_was_removed_is_counted_and_is_no_problem(history: History) -> None:
    removed = history.remove(*WITH_RECORDS, "base_model")
    found = verify(history.audit())
    assert found.problems == ()
    assert found.removed == len(removed)


def test_kept_evidence_that_is_gone_is_noticed(history: History) -> None:
    [removed, *_] = history.remove("training_mixture")
    (Path(history.store.uri(removed.path)) / "evidence" / "rows.parquet").unlink()
    assert any("missing that retention keeps" in line for line in verify(history.audit()).problems)


def forge_tombstone(history: History, artifact: Artifact, claim: dict[str, Any] | None) -> None:
    """Files are deleted, and a tombstone says that retention did it."""
    store = history.store
    said = {"at": "2026-11-01T00:00:00.000+00:00", "why": "retention"}
    stone = {"schema_version": 1, "removed": said, "manifest": store.read(artifact.manifest_path).decode()}
    store.write_json(artifact.manifest_path, stone)
    store.remove(f"{artifact.path}/{name}" for name in artifact.files)
    if claim is not None:
        attempt = artifact.predicate["attempt"]
        store.write_json(f"{artifact.place.path}/claims/{attempt}/000001.json", claim)


KEPT = {"schema_version": 1, "claim": "kept", "at": "2026-11-01T00:00:00.000+00:00", "why": ""}


@pytest.mark.parametrize("claim", [None, KEPT, {**KEPT, "claim": "removed", "why": "another"}])
def test_a_tombstone_that_nobody_claimed_hides_no_deletion(history: History, claim: Any) -> None:
    export = next(
        each.artifact
        for place, each in contents_of(history.store).keyed.items()
        if place.stage == "model_export" and each.artifact is not None
    )
    forge_tombstone(history, export, claim)
    assert any("a tombstone" in line for line in verify(history.audit()).problems)


def test_a_source_is_found_after_its_declaration_was_removed(old: Settings) -> None:
    """And one declaration whose file is gone takes no answer from the others."""
    before = source(open_audit(old), "data/places.jsonl")
    store = old.open_store()
    declared = [
        each.artifact
        for place, each in contents_of(store).keyed.items()
        if place.stage == "declaration" and each.artifact is not None
    ]
    for one in declared:
        assert claim_removal(store, one, "retention", 4e9 + DAY)
        finish_removal(store, one)
    assert source(open_audit(old), "data/places.jsonl") == before
    lost = next(one for one in declared if one.place.prefix == "tenants/globex/strict")
    (Path(store.uri(lost.path)) / "payload" / "declaration.json").unlink()
    left = {one.variant for one in source(open_audit(old), "data/places.jsonl").models}
    assert left >= {"acme.places", "acme.colours", "globex.places"}
    assert model(open_audit(old), "globex.strict").variant == "globex.strict"


def test_old_rows_that_went_are_told_by_the_index(old: Settings) -> None:
    """What is older than evidence of records leaves none."""
    row = (old.project / "data/places.jsonl").read_text().splitlines()[2]
    before = {(one.weights, one.how) for one in record(open_audit(old), parse_record(row)).models}
    store = old.open_store()
    for each in contents_of(store).keyed.values():
        if each.artifact is not None and each.place.stage in ("task_dataset", "training_mixture"):
            assert claim_removal(store, each.artifact, "retention", 4e9 + DAY)
            finish_removal(store, each.artifact)
    found = record(open_audit(old), parse_record(row))
    assert {(one.weights, one.how) for one in found.models} == before
    assert all("by the index alone" in one.facts["reason"] for one in found.found)
    assert verify(open_audit(old)).problems == ()


def test_a_child_has_a_proof_by_its_parent(history: History, tmp_path: Path) -> None:
    row = trained_row(history, "acme.one")
    audit = history.audit()
    child = audit.model("acme.child")
    assert any(
        (one.weights, one.how) == (child.digest, INHERITED) for one in record(audit, parse_record(row)).models
    )
    file = tmp_path / "proof.json"
    proof = prove(audit, parse_record(row), child)
    file.write_text(json.dumps(proof), "utf-8")
    found = check(file, parse_record(row))
    assert (found.kind, found.variant, found.manifest) == (PRESENCE, "acme.child", child.manifest)
    assert any("starts from a release of acme.one" in step for step in found.steps)


THROUGH = {
    "another model first": lambda proof: proof["through"].pop(0),
    "no export": lambda proof: proof["through"].pop(2),
    "another base": lambda proof: proof["through"].__setitem__(1, proof["through"][1] + " "),
}


@pytest.mark.parametrize("forged", THROUGH)
def test_a_forged_descent_does_not_hold(history: History, tmp_path: Path, forged: str) -> None:
    row = trained_row(history, "acme.one")
    audit = history.audit()
    proof = prove(audit, parse_record(row), audit.model("acme.child"))
    THROUGH[forged](proof)
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(proof), "utf-8")
    with pytest.raises(UserError, match=r"does not hold|not a proof"):
        check(file, parse_record(row))


def test_no_absence_is_proved_where_the_parent_learned_and_its_key_is_lost(history: History) -> None:
    """The child's mixture is ordered by a newer key than the parent's, which is lost."""
    row = trained_row(history, "acme.one")
    audit = history.audit()
    keys = history.settings.keys_folder
    rotate(keys, "acme")
    rows = history.dataset("acme.child", [question(number) for number in range(200, 220)])
    [base] = [each for each in audit.index.of_stage("base_model") if each.tenant == "acme"]
    child = history.model("acme.child", history.mixture("acme.child", rows), audit.artifact(base))
    keys_file = keys / "tenants" / "acme.json"
    content = json.loads(keys_file.read_text())
    content["keys"] = content["keys"][:1]
    keys_file.write_text(json.dumps(content))
    audit = history.audit()
    with pytest.raises(UserError, match="was trained on it, and nothing proves that"):
        prove(audit, parse_record(row), audit.model(child.digest))
    other = prove(audit, parse_record("never written"), audit.model(child.digest))
    assert other["kind"] == ABSENCE
