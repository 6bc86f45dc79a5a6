"""A record is told from what only looks like it in normal form, and found as older artifacts know it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ft_dagster.audit.audit import Audit
from ft_dagster.audit.models import diff
from ft_dagster.audit.proofs.absence import held_against
from ft_dagster.audit.proofs.proof_check import check
from ft_dagster.audit.proofs.proofs import prove
from ft_dagster.audit.record_sentences import sought
from ft_dagster.audit.records import JUDGED, PERHAPS, TRAINED, record
from ft_dagster.audit.search.search import look_through
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.audit.trained import training_records
from ft_dagster.data.rows import rows
from ft_dagster.data.rows.dataset_io import ORIGINS, read_split
from ft_dagster.errors import UserError
from ft_dagster.gate.samples import Sample
from ft_dagster.records.record_keys import keys_of
from ft_dagster.records.record_tree import TreeHead
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.strict_json import dumps, loads
from ft_dagster.versions.data_changes import data_changes
from ft_dagster.workspace.workspace import Workspace
from tests.audit.histories import History, question
from tests.audit.proved import proof, ran
from tests.present import present

pytestmark = pytest.mark.slow

LOST = {"prompt": "How much is 10⁶?", "completion": "It is 10⁶ as I said."}
PLAIN = {"prompt": "How much is 106?", "completion": "It is 106 as I said."}
TRAIN = {"validation": 0, "test": 0, "minimum": 1}
HALF = {"validation": 0, "test": 0.5, "minimum": 1}
JUDGED_STORE = Path(__file__).resolve().parents[1] / "compat" / "store_judged"


@contextmanager
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is made meanwhile knows all rows by identity 1, and says nothing of another."""

    def to_json(head: TreeHead) -> dict[str, object]:
        return {"schema_version": 1, "root": head.root, "size": head.size, "key": head.key}

    with monkeypatch.context() as patched:
        patched.setattr(rows, "loses", lambda text: False)
        patched.setattr(TreeHead, "to_json", to_json)
        yield


def made(folder: Path, *more: dict[str, Any], variant: str = "acme.one", **data: Any) -> History:
    """A model that was trained on some questions and these rows."""
    history = History(folder)
    trained(history, *more, variant=variant, **data)
    return history


def trained(history: History, *more: dict[str, Any], variant: str = "acme.one", **data: Any) -> None:
    others = map(talk if any("messages" in row for row in more) else question, range(8))
    dataset = history.dataset(variant, [*others, *more], **{"splits": TRAIN, **data})
    history.model(variant, history.mixture(variant, dataset), history.base())


def talk(number: int) -> dict[str, Any]:
    asked, answer = question(number).values()
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def found(audit: Audit, row: dict[str, Any] | str) -> set[tuple[str | None, str, bool]]:
    """(variant, state, whether by identity 1 of two) of each place."""
    given = row if isinstance(row, str) else dumps(row)
    return {(one.variant, one.state, one.alike) for one in record(audit, parse_record(given)).found}


def inside(audit: Audit, row: dict[str, Any], near: float | None = None) -> Any:
    looked = look_through(audit, parse_record(dumps(row)), near=near)
    return present(looked.near) if near else present(looked.search)


def identity_1(row: dict[str, Any], normal: dict[str, str]) -> str:
    parts = [[name, normal.get(text, text.casefold())] for name, text in row.items()]
    content = json.dumps([1, "prompt_completion", parts], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def test_only_a_record_of_which_identity_1_loses_something_has_an_identity_2() -> None:
    """The bytes are written out: they are those of every version."""
    plain, lost = (parse_record(json.dumps(each, ensure_ascii=False)) for each in (PLAIN, LOST))
    assert plain.identities[0].hex() == identity_1(PLAIN, {})
    assert lost.identities[1].hex() == identity_1(PLAIN, {})
    parts = [["prompt", "how much is 10⁶?"], ["completion", "it is 10⁶ as i said."]]
    content = json.dumps([2, "prompt_completion", parts], ensure_ascii=False, separators=(",", ":"))
    assert lost.identities[0] == hashlib.sha256(content.encode()).digest()
    assert (len(plain.identities), len(lost.identities)) == (2, 4)  # and as a document, which JSON may be
    assert plain.alike == {}


def test_a_record_is_found_by_identity_2_and_no_other_record_is(tmp_path: Path) -> None:
    audit = made(tmp_path / "project", LOST).audit()
    assert found(audit, LOST) == {("acme.one", "train", False)}
    assert found(audit, {**LOST, "prompt": " how  MUCH is 10⁶?"}) == {("acme.one", "train", False)}
    assert found(audit, PLAIN) == set()
    assert inside(audit, PLAIN).rows == 1  # what is like it is not "never seen"
    assert inside(audit, LOST).rows == 0
    assert [near.similarity for near in inside(audit, PLAIN, near=0.9).records] == [1.0]


def test_what_is_found_by_identity_1_alone_is_said_to_be_perhaps_another(tmp_path: Path) -> None:
    audit = made(tmp_path / "project", PLAIN).audit()
    assert found(audit, PLAIN) == {("acme.one", "train", False)}
    assert found(audit, LOST) == {("acme.one", "train", True)}
    answer = record(audit, parse_record(dumps(LOST)))
    assert "by identity 1, so perhaps another: it does not tell 10⁶ from 106" in sought(answer)
    assert {(model.how, model.alike) for model in answer.models} == {(TRAINED, True)}
    assert "identity 1" not in sought(record(audit, parse_record(dumps(PLAIN))))


def test_a_store_from_before_identity_2_answers_as_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with as_before(monkeypatch):
        history = made(tmp_path / "project", LOST)
        before = record(history.audit(), parse_record(dumps(LOST)))
        near = inside(history.audit(), PLAIN, near=0.9)
    audit = history.audit()
    for row in (LOST, PLAIN):
        answer = record(audit, parse_record(dumps(row)))
        assert [replace(one, alike=False) for one in answer.found] == list(before.found)
        assert [replace(one, alike=False) for one in answer.models] == list(before.models)
        assert inside(audit, row).rows == 0
    assert replace(inside(audit, PLAIN, near=0.9), seconds=0.0) == replace(near, seconds=0.0)


def test_old_and_new_artifacts_of_one_store_are_both_found_and_say_by_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with as_before(monkeypatch):
        history = made(tmp_path / "project", LOST)
    trained(history, LOST, variant="acme.two")  # of equal rows: one file is read for both
    audit = history.audit()
    assert found(audit, LOST) == {("acme.one", "train", True), ("acme.two", "train", False)}
    assert found(audit, PLAIN) == {("acme.one", "train", False)}
    [one] = inside(audit, PLAIN).records
    assert {(each.variant, each.alike) for each in one.models} == {("acme.one", True), ("acme.two", False)}


def absence(history: History, row: dict[str, Any], file: Path) -> dict[str, Any]:
    audit = history.audit()
    [weights] = audit.index.of_stage("fine_tuned_model")
    shown = prove(audit, parse_record(dumps(row)), weights)
    file.write_text(dumps(shown), "utf-8")
    return shown


def test_absence_is_shown_of_both_identities_and_of_one_alone_it_does_not_hold(tmp_path: Path) -> None:
    history, file, asked = made(tmp_path / "project"), tmp_path / "proof.json", parse_record(dumps(LOST))
    key = keys_of(history.settings.keys_folder, "acme").current
    shown = absence(history, LOST, file)
    each = [
        {name: one[name] for name in ("identity", "reading", "leaves")}
        for one in (shown, *shown["read_otherwise"])
    ]
    assert {one["identity"] for one in each} == {one.hex() for one in asked.identities}
    assert check(file, asked, key).shown
    assert {one.identity for one in held_against(history.audit(), asked).absences} >= {
        one.hex() for one in asked.identities
    }
    for left_out in range(len(each)):
        first, *others = each[:left_out] + each[left_out + 1 :]
        file.write_text(dumps({**shown, **first, "read_otherwise": others}), "utf-8")
        with pytest.raises(UserError, match="it is of another record"):
            check(file, asked, key)


def test_of_a_tree_from_before_identity_2_absence_is_proved_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "proof.json"
    with as_before(monkeypatch):
        history = made(tmp_path / "project")
        before = absence(history, LOST, file)
    asked, key = parse_record(dumps(LOST)), keys_of(history.settings.keys_folder, "acme").current
    assert check(file, asked, key).shown
    assert absence(history, LOST, file) == before


def test_a_tree_cannot_pass_for_one_from_before_identity_2(tmp_path: Path) -> None:
    """Else a proof by identity 1 would hold of a tree that has the record by identity 2."""
    history, file = made(tmp_path / "project"), tmp_path / "proof.json"
    shown = absence(history, LOST, file)
    manifests = shown["manifests"]
    manifest = loads(manifests["training_mixture"])
    assert manifest["predicate"]["figures"]["records"].pop("identity") == 2
    manifests["training_mixture"] = dumps(manifest)
    older = parse_record(dumps(LOST)).known_in(1)
    each = [one for one in (shown, *shown["read_otherwise"]) if bytes.fromhex(one["identity"]) in older]
    kept = [{name: one[name] for name in ("identity", "reading", "leaves")} for one in each]
    file.write_text(dumps({**shown, "manifests": manifests, **kept[0], "read_otherwise": kept[1:]}), "utf-8")
    with pytest.raises(UserError, match="trained on another mixture"):
        check(file, parse_record(dumps(LOST)))


def test_presence_is_proved_by_identity_2_and_by_identity_1_it_says_what_that_does_not_show(
    tmp_path: Path,
) -> None:
    history, file = made(tmp_path / "project", PLAIN), tmp_path / "proof.json"
    as_program = ["prompt_completion", [[name, text] for name, text in LOST.items()]]
    shown = proof(history, dumps(LOST))
    file.write_text(dumps(shown), "utf-8")
    checked = check(file, parse_record(dumps(LOST)))
    assert any("does not tell 10⁶ from 106" in line for line in checked.unchecked)
    assert "not checked: that it is this very record" in ran(file, as_program).stdout
    trained(history, LOST, PLAIN, variant="acme.two", deduplicate="off")
    audit = history.audit()
    for row in (LOST, PLAIN):
        asked = parse_record(dumps(row))
        shown = prove(audit, asked, audit.model("acme.two"))
        assert (shown["identity"], shown["also"]) == (asked.identities[0].hex(), [])
        file.write_text(dumps(shown), "utf-8")
        assert not any("this very record" in line for line in check(file, asked).unchecked)
    program = ran(file, ["prompt_completion", [[name, text] for name, text in PLAIN.items()]])
    assert (program.returncode, "this very record" in program.stdout) == (0, False)


def test_the_program_for_a_stranger_knows_identity_2(tmp_path: Path) -> None:
    history, file = made(tmp_path / "project", LOST), tmp_path / "proof.json"
    file.write_text(dumps(proof(history, dumps(LOST))), "utf-8")
    for row, code in ((LOST, 0), (PLAIN, 1)):
        program = ran(file, ["prompt_completion", [[name, text] for name, text in row.items()]])
        assert program.returncode == code, program.stderr
        assert "this very record" not in program.stdout


def test_duplicates_are_of_one_normal_form_and_each_is_found(tmp_path: Path) -> None:
    audit = made(tmp_path / "project", PLAIN, LOST).audit()
    assert found(audit, PLAIN) == {("acme.one", "train", False)}
    assert found(audit, LOST) == {("acme.one", "train", True), ("acme.one", "dropped", False)}


def test_a_question_is_known_by_its_normal_form_and_found_by_either_identity(tmp_path: Path) -> None:
    history = History(tmp_path / "project")
    asked = [{"prompt": f"How much is 10⁶ and {n}?", "completion": f"A {n}"} for n in range(10)]
    dataset = history.dataset("acme.one", [*map(question, range(10)), *asked], splits=HALF)
    model = history.model("acme.one", history.mixture("acme.one", dataset), history.base())
    row = next(
        row for row in read_split(history._payload(dataset) / "test.parquet") if len(row.identities) == 2
    )
    id = f"test_split_task:0:{row.likeness.hex()[:32]}"
    sample = Sample("test_split_task", "test_split_task", "completion_loss", id, 1.0, 1.0, False)
    history.evaluated("acme.one", model, [sample], [])
    for given in (dumps({"prompt": row.prompt, "completion": row.completion}), row.identity.hex()):
        answer = record(history.audit(), parse_record(given))
        assert {(one.how, one.alike) for one in answer.models} == {(JUDGED, False)}
    history.remove("task_dataset")  # its text, by which an identity alone leads to its questions
    told = [
        {one.how for one in record(history.audit(), parse_record(given)).models}
        for given in (dumps({"prompt": row.prompt, "completion": row.completion}), row.identity.hex())
    ]
    assert told == [{JUDGED}, {PERHAPS}]


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def call(city: str) -> dict[str, Any]:
    function = {"name": "weather", "arguments": dumps({"city": city})}
    turns = [
        {"role": "user", "content": "How is it there?"},
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": "rain", "name": "weather"},
        {"role": "assistant", "content": "It rains.", "reasoning_content": "So says Mr Nobody."},
    ]
    return {"messages": turns, "tools": [TOOL]}


def last_call(city: str) -> dict[str, Any]:
    """A row that ends with its call, which says a text beside it."""
    turns = call(city)["messages"][:2]
    return {"messages": [turns[0], {**turns[1], "content": "-"}], "tools": [TOOL]}


def without_calls(row: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": turn["role"], "content": turn["content"]} for turn in row["messages"]]}


def test_rows_that_differ_in_a_call_alone_are_kept_and_each_is_found(tmp_path: Path) -> None:
    plain = {"messages": [last_call("")["messages"][0], {"role": "assistant", "content": "+"}]}
    history = made(tmp_path / "project", last_call("Paris"), last_call("Rome"), last_call("Rome"), plain)
    audit = history.audit()
    [dataset] = audit.index.of_stage("task_dataset")
    assert audit.artifact(dataset).figures["dropped"] == {"duplicate": 1}
    assert found(audit, last_call("Paris")) == {("acme.one", "train", False)}
    assert found(audit, last_call("Rome")) == {("acme.one", "train", False), ("acme.one", "dropped", False)}
    assert found(audit, last_call("Oslo")) == set()
    near = inside(audit, last_call("Oslo"), near=0.9).records
    assert [one.similarity for one in near] == [1.0, 1.0, 1.0]  # by the words of their texts
    shown = absence(history, last_call("Oslo"), tmp_path / "proof.json")
    assert {one["identity"] for one in (shown, *shown["read_otherwise"])} == {
        one.hex() for one in parse_record(dumps(last_call("Oslo"))).identities
    }


def test_a_row_with_a_null_in_a_call_is_found_by_its_own_json(tmp_path: Path) -> None:
    """As JSON has it, and as a file of columns does, which gives each call the names of all others."""
    asked, answer = last_call("Rome")["messages"]
    function = {"name": "weather", "arguments": {"city": "Rome", "day": None}}
    row = {"messages": [asked, {**answer, "tool_calls": [{"type": "function", "function": function}]}]}
    audit = made(tmp_path / "json", row).audit()
    assert found(audit, row) == {("acme.one", "train", False)}
    history = History(tmp_path / "columns")
    table = pa.Table.from_pylist([{"messages": talk(0)["messages"]}, row])
    parquet.write_table(table, history.folder / "rows.parquet")
    trained(history, variant="acme.two", sources=["rows.parquet"])
    assert found(history.audit(), row) == {("acme.two", "train", False)}


def test_near_duplicates_are_told_by_their_calls_too(tmp_path: Path) -> None:
    others = [call("Paris"), call("the long list of all the ships that came in since the great storm")]
    near = {"method": "near", "threshold": 0.85}
    history = made(tmp_path / "project", *others, call("paris"), deduplicate=near)
    audit = history.audit()
    [dataset] = audit.index.of_stage("task_dataset")
    assert audit.artifact(dataset).figures["dropped"] == {"duplicate": 1}
    for row in others:
        assert found(audit, row) >= {("acme.one", "train", False)}


def test_a_row_of_which_an_old_store_left_out_the_calls_is_perhaps_the_one_with_them(tmp_path: Path) -> None:
    audit = made(tmp_path / "project", without_calls(last_call("Rome"))).audit()
    assert found(audit, last_call("Rome")) == {("acme.one", "train", True)}


@pytest.mark.parametrize("text", ["Mr Nobody", "Paris", "weather", "rain"])
def test_what_stands_in_calls_tools_and_reasoning_is_searched(tmp_path: Path, text: str) -> None:
    audit = made(tmp_path / "project", call("Paris")).audit()
    looked = look_through(audit, parse_record(text))
    assert present(looked.search).rows == 1


def test_the_program_for_a_stranger_reads_what_a_turn_says_beside_its_text(tmp_path: Path) -> None:
    history, file = made(tmp_path / "project", call("Paris")), tmp_path / "proof.json"
    file.write_text(dumps(proof(history, dumps(call("Paris")))), "utf-8")
    for city, code in (("Paris", 0), ("Rome", 1)):
        row = call(city)
        parts = []
        for turn in row["messages"]:
            more = {name: said for name, said in turn.items() if name not in ("role", "content")}
            parts.append([turn["role"], turn["content"] or "", *([more] if more else [])])
        program = ran(file, ["messages", parts, row["tools"]])
        assert program.returncode == code, program.stderr


def test_the_records_of_a_model_are_told_whole(tmp_path: Path) -> None:
    audit = made(tmp_path / "project", call("Paris")).audit()
    told = {one.identity: one.content for one in training_records(audit, audit.model("acme.one"))}
    content = dict(present(told[parse_record(dumps(call("Paris"))).identities[0].hex()]))
    wanted = call("Paris")
    wanted["messages"][1]["content"] = ""
    assert content == wanted


def test_the_same_rows_known_otherwise_are_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with as_before(monkeypatch):
        history = made(tmp_path / "project", LOST)
    trained(history, LOST, question(9), variant="acme.two")
    trained(history, PLAIN, variant="acme.three")
    told = diff(history.audit(), "acme.one", "acme.two")
    assert (told.added, told.removed, told.same) == (1, 0, 9)
    told = diff(history.audit(), "acme.two", "acme.one")
    assert (told.added, told.removed, told.same) == (0, 1, 9)
    told = diff(history.audit(), "acme.two", "acme.three")
    assert (told.added, told.removed, told.same) == (1, 2, 8)


def test_rows_known_otherwise_are_no_change_since_the_last_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(tmp_path / "project")
    with as_before(monkeypatch):
        dataset = history.dataset("acme.one", [question(1), LOST], splits=TRAIN)
        base = history.base()
        history.release(
            "acme.one", history.model("acme.one", history.mixture("acme.one", dataset), base), base
        )
    workspace = Workspace(history.settings, VariantKey("acme", "one"))
    for rows_now, expected in (([question(2), LOST], (1, 1)), ([question(1), PLAIN], (1, 1))):
        changes = present(data_changes(workspace, history.dataset("acme.one", rows_now, splits=TRAIN)))
        assert (changes.added, changes.removed) == expected


def test_rows_of_a_kept_store_have_the_identities_and_questions_that_they_had() -> None:
    """So that what is judged today pairs with what production answered then."""
    tenant = JUDGED_STORE / "store" / "tenants" / "acme" / "places"
    [evidence] = tenant.glob(f"task_dataset/*/*/evidence/{ORIGINS}")
    origins = {
        (one["split"], one["row"]): one["identity"] for one in parquet.read_table(evidence).to_pylist()
    }
    asked, names = set(), set()
    for file in tenant.glob("evaluation/*/*/payload/samples.parquet"):
        asked |= {one["question"] for one in parquet.read_table(file).to_pylist()}
    asked = {one for one in asked if one.startswith("test_split_task:")}
    assert origins
    assert asked
    for split in ("train", "validation", "test"):
        for number, row in enumerate(read_split(evidence.parents[1] / "payload" / f"{split}.parquet")):
            assert origins[split, number] == row.identity.hex()
            names |= {f"test_split_task:0:{row.likeness.hex()[:32]}"} if split == "test" else set()
    assert asked <= names


def test_a_kept_store_is_asked_by_identity_1_alone(tmp_path: Path) -> None:
    """Nothing of it is found otherwise than it was."""
    import shutil

    from ft_dagster.audit.audit import open_audit

    settings = load_settings(shutil.copytree(JUDGED_STORE, tmp_path / "project"))
    row = next(
        read_split(next((settings.project / "store/tenants/acme/places/task_dataset").rglob("train.parquet")))
    )
    answer = record(open_audit(settings), parse_record(row.identity.hex()))
    assert {one.alike for one in answer.found} == {False}
    assert all(one.inclusion is not None for one in answer.found)
