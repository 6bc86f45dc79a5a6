"""A proof is of whole numbers and hashes alone: what is of another form is none, to either program."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.audit.audit import Audit
from ft_dagster.audit.index.index import Indexed
from ft_dagster.audit.proofs.proof_check import check
from ft_dagster.audit.proofs.proof_form import ABSENCE, PRESENCE
from ft_dagster.audit.proofs.proofs import prove
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.errors import UserError
from ft_dagster.records.record_keys import RecordKey, keys_of
from ft_dagster.records.record_tree import RecordTree
from ft_dagster.stage_entries import FINE_TUNED_MODEL, TRAINING_MIXTURE
from ft_dagster.strict_json import dumps
from tests.audit.histories import History, question
from tests.audit.proved import ran
from tests.present import present

pytestmark = pytest.mark.slow

Proof = dict[str, Any]
Forge = Callable[[Proof], object]


@pytest.fixture
def written(history: History, tmp_path: Path) -> Callable[[Proof], Path]:
    def write(proof: Proof) -> Path:
        file = tmp_path / "proof.json"
        file.write_text(json.dumps(proof), "utf-8")  # also what is no text
        return file

    return write


def model_of(history: History) -> tuple[Audit, Indexed, RecordTree, RecordKey]:
    audit = history.audit()
    [weights] = [each for each in audit.index.of_stage(FINE_TUNED_MODEL.name) if each.variant == "acme.one"]
    tree = audit.tree(audit.artifact(present(audit.index.parent(weights, TRAINING_MIXTURE.name))))
    return audit, weights, tree, keys_of(history.settings.keys_folder, "acme").current


def identity_at(tree: RecordTree, at: int) -> str:
    """The identity of the row of a leaf, which the evidence does not have."""
    texts = (f"Document {number} of the town." for number in range(40))
    given = (*(dumps(question(number)) for number in range(30)), *texts)
    known = (one for each in given for one in parse_record(each).identities)
    return next(one for one in known if tree.row(at)[0].is_of(one)).hex()


def absence_of_a_trained_record(history: History, at: int, leaves: list[dict[str, Any]]) -> tuple[Proof, str]:
    """The proof of absence of another record, made over into one of the record whose leaf is at `at`."""
    audit, weights, tree, _ = model_of(history)
    identity = identity_at(tree, at)
    proof = prove(audit, parse_record("0" * 64), weights)
    assert proof["kind"] == ABSENCE
    return {**proof, "identity": identity, "leaves": leaves, "read_otherwise": []}, identity


def leaf_of(tree: RecordTree, at: int) -> dict[str, Any]:
    from ft_dagster.audit.proofs.proofs import neighbours

    return next(leaf for leaf in neighbours(tree, at) if leaf["index"] == at)


def test_leaves_between_whole_numbers_prove_no_absence_of_a_trained_record(
    history: History, written: Callable[[Proof], Path]
) -> None:
    """The leaves beside the record's own, said to stand half a place nearer to each other."""
    *_, tree, key = model_of(history)
    before, after = leaf_of(tree, 3), leaf_of(tree, 5)
    beside = [{**before, "index": 3.5}, {**after, "index": 4.5}]
    forged, identity = absence_of_a_trained_record(history, 4, beside)
    with pytest.raises(UserError, match=r"not a proof: .*leaves\.0\.index"):
        check(written(forged), parse_record(identity), key)


def test_a_lookup_of_another_length_proves_no_absence_of_a_trained_record(
    history: History, written: Callable[[Proof], Path]
) -> None:
    """The last leaf, its lookup taken for the beginning of its record: it then is below every other."""
    *_, tree, key = model_of(history)
    last = leaf_of(tree, len(tree) - 1)
    moved = {**last, "lookup": "", "record": last["lookup"] + last["record"]}
    forged, identity = absence_of_a_trained_record(history, 4, [moved])
    with pytest.raises(UserError, match=r"not a proof: .*leaves\.0\.lookup"):
        check(written(forged), parse_record(identity), key)


WRONG: dict[str, Forge] = {
    "tree.size": lambda proof: proof["tree"].update(size=float(proof["tree"]["size"])),
    "tree.root": lambda proof: proof["tree"].update(root=proof["tree"]["root"].upper()),
    "leaves.0.index": lambda proof: proof["leaves"][0].update(index=True),
    "leaves.0.path": lambda proof: proof["leaves"][0].update(path="0" * 64),
    "leaves.0.path.0": lambda proof: proof["leaves"][0]["path"].__setitem__(0, "0" * 62),
    "leaves.0.facts_sha256": lambda proof: proof["leaves"][0].update(facts_sha256=[]),
    "schema_version": lambda proof: proof.update(schema_version=True),
    "identity": lambda proof: proof.update(identity="x" * 64),
    "kind": lambda proof: proof.update(kind="presents"),
    "tree.key": lambda proof: proof["tree"].update(key=None),
    "manifests.training_mixture": lambda proof: proof["manifests"].update(training_mixture=7),
}
OF_PRESENCE: dict[str, Forge] = {
    "times": lambda proof: proof.update(times=3.0),
    "rows": lambda proof: proof.update(rows=True),
    "salt": lambda proof: proof.update(salt=proof["salt"] + "0"),
    "facts": lambda proof: proof.update(facts={}),
    "leaves": lambda proof: proof.update(leaves=[]),
}


@pytest.mark.parametrize("kind", [PRESENCE, ABSENCE])
def test_each_field_of_a_proof_is_of_its_type(
    history: History, written: Callable[[Proof], Path], kind: str
) -> None:
    audit, weights, tree, key = model_of(history)
    given = identity_at(tree, 4) if kind == PRESENCE else "0" * 64
    asked = parse_record(given)
    whole = prove(audit, asked, weights)
    assert check(written(whole), asked, key).kind == whole["kind"] == kind
    for field, forge in {**WRONG, **(OF_PRESENCE if kind == PRESENCE else {})}.items():
        forged = deepcopy(whole)
        forge(forged)
        with pytest.raises(UserError, match="not a proof") as told:
            check(written(forged), asked, key)
        assert field in str(told.value)


def test_without_the_tenants_key_an_absence_is_not_shown(
    history: History, written: Callable[[Proof], Path]
) -> None:
    """Any two neighbours would do."""
    audit, weights, tree, key = model_of(history)
    asked = parse_record("never written")
    proof = prove(audit, asked, weights)
    assert check(written(proof), asked, key).shown
    assert not check(written(proof), asked).shown
    forged, identity = absence_of_a_trained_record(history, 4, [leaf_of(tree, at) for at in (7, 8)])
    found = check(written(forged), parse_record(identity))
    assert (found.kind, found.shown) == (ABSENCE, False)
    present_proof = prove(audit, parse_record(identity), weights)
    assert check(written(present_proof)).shown


def first_of(proof: Proof, name: str, said: str) -> None:
    """Put a field before all others of a manifest."""
    proof["manifests"][name] = proof["manifests"][name].replace("{", f"{{{said},", 1)


FORGED: dict[str, Forge] = {
    "facts of half a pair": lambda proof: proof.update(facts="\ud800"),
    "a mixture of half a pair": lambda proof: first_of(proof, TRAINING_MIXTURE.name, '"x":"\ud800"'),
    "a model of half a pair": lambda proof: first_of(proof, FINE_TUNED_MODEL.name, '"x":"\ud800"'),
    "a number that no program counts": lambda proof: proof.update(times=10**4200),
    "more rows than there can be": lambda proof: proof.update(rows=10**4200),
    "another size": lambda proof: proof["tree"].update(size=proof["tree"]["size"] + 1),
    "another key": lambda proof: proof["tree"].update(key="0" * 16),
    "the mixture in place of the model": lambda proof: proof["manifests"].update(
        fine_tuned_model=proof["manifests"][TRAINING_MIXTURE.name]
    ),
}


@pytest.mark.parametrize("kind", FORGED)
def test_what_was_made_by_hand_ends_in_one_line_of_either_program(
    history: History, written: Callable[[Proof], Path], kind: str
) -> None:
    proof, content = trained_row(history)
    FORGED[kind](proof)
    file = written(proof)
    with pytest.raises(UserError):
        check(file)
    done = ran(file, content)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr


DOUBLED = [("kind", PRESENCE), ("index", 0), ("size", 8)]


@pytest.mark.parametrize(("name", "value"), DOUBLED)
def test_a_proof_that_says_one_thing_twice_is_none(
    history: History, tmp_path: Path, name: str, value: Any
) -> None:
    """Two programs might read it as two."""
    audit, weights, tree, _ = model_of(history)
    proof = prove(audit, parse_record(identity_at(tree, 4)), weights)
    said = f'"{name}": '
    doubled = dumps(proof).replace(said, f"{said}{json.dumps(value)}, {said}", 1)
    file = tmp_path / "proof.json"
    file.write_text(doubled, "utf-8")
    with pytest.raises(UserError, match=f"not a proof: .*{name}.* twice"):
        check(file)
    row = question(0)
    done = ran(file, ["prompt_completion", [["prompt", row["prompt"]], ["completion", row["completion"]]]])
    assert (done.returncode, done.stdout) == (1, "")
    assert f"not a proof: {name} is said twice" in done.stderr


def trained_row(history: History) -> tuple[Proof, list[Any]]:
    audit, weights, *_ = model_of(history)
    for number in range(30):
        row = question(number)
        proof = prove(audit, parse_record(dumps(row)), weights)
        if proof.get("times"):
            return proof, ["prompt_completion", [[name, row[name]] for name in ("prompt", "completion")]]
    raise AssertionError("a model that was trained on nothing")


@pytest.mark.parametrize("field", [*WRONG, *OF_PRESENCE])
def test_the_program_for_a_stranger_takes_no_other_types(
    history: History, written: Callable[[Proof], Path], field: str
) -> None:
    proof, content = trained_row(history)
    assert ran(written(proof), content).returncode == 0
    {**WRONG, **OF_PRESENCE}[field](proof)
    done = ran(written(proof), content)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "not a proof" in done.stderr


@pytest.mark.parametrize("version", [3, 0, None, "2"])
def test_a_proof_of_a_version_that_is_not_known_is_none(
    history: History, written: Callable[[Proof], Path], version: Any
) -> None:
    proof, content = trained_row(history)
    proof["schema_version"] = version
    done = ran(written(proof), content)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    with pytest.raises(UserError, match="schema_version"):
        check(written(proof))


BAD = {
    "no JSON": ("{", '["text", [["text", "x"]]]'),
    "a list": ("[]", '["text", [["text", "x"]]]'),
    "no proof": ("{}", '["text", [["text", "x"]]]'),
    "nested": ("[" * 100_000, '["text", [["text", "x"]]]'),
    "a record that is none": ("", '["text"]'),
    "a record of numbers": ("", '["text", [["text", 7]]]'),
    "a record of half a pair": ("", '["text", [["text", "\\ud800"]]]'),
}


@pytest.mark.parametrize("kind", BAD)
def test_the_program_for_a_stranger_ends_bad_input_in_one_line(
    history: History, tmp_path: Path, kind: str
) -> None:
    proof, record = BAD[kind]
    file, given = tmp_path / "proof.json", tmp_path / "given.json"
    file.write_text(proof or dumps(trained_row(history)[0]), "utf-8")
    given.write_text(record, "utf-8")
    done = ran(file, given)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_the_program_for_a_stranger_names_what_is_no_file(tmp_path: Path) -> None:
    done = ran(tmp_path / "nowhere.json", ["text", []])
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"{tmp_path / 'nowhere.json'}: no such file"]


def test_the_program_for_a_stranger_does_not_check_an_absence(
    history: History, written: Callable[[Proof], Path]
) -> None:
    audit, weights, *_ = model_of(history)
    done = ran(
        written(prove(audit, parse_record("never written"), weights)), ["text", [["text", "never written"]]]
    )
    assert done.returncode == 1
    assert "a proof of absence" in done.stderr
