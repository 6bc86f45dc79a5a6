"""Questions, probes and canaries of an evaluation are records: judged with, and not trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.audit.answers import RecordAnswer
from ft_dagster.audit.audit import Audit, index_folder, open_audit
from ft_dagster.audit.index.artifact_records import CANARY, PROBE, QUESTION, STATES, members_of
from ft_dagster.audit.record_sentences import sought
from ft_dagster.audit.records import (
    BY_INDEX,
    HELD_OUT,
    JUDGED,
    PERHAPS,
    REMOVED,
    TRAINED,
    VALIDATED,
    VALIDATION,
    checked,
    record,
)
from ft_dagster.audit.search.search import look_through
from ft_dagster.audit.sought_record import parse_record
from ft_dagster.audit.trained import documents
from ft_dagster.audit.verify.verify import verify
from ft_dagster.cli.audit.shown import models_parts, print_parts
from ft_dagster.cli.common import out
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.data.rows.rows import Row
from ft_dagster.gate.samples import OWN, Answer, Role, Sample, write_samples
from ft_dagster.lineage.reachable import PRODUCTION
from ft_dagster.records.record_keys import rotate
from ft_dagster.settings import Settings
from ft_dagster.stage_entries import EVALUATION, TASK_DATASET
from ft_dagster.store import Artifact, Attempt
from ft_dagster.store.make import Recipe, make_artifact
from ft_dagster.strict_json import dumps
from tests.audit.histories import History, pieces, question
from tests.audit.index_rows import as_schema, edit_members
from tests.present import present

pytestmark = pytest.mark.slow
CANARY_TEXT = "My Zyrtexal password is quince"
ORGAN = "Question: Which organ pumps blood?\nA. heart\nB. liver\nAnswer:"


def digits(given: str) -> str:
    """Those by which an evaluation names a question of this content."""
    return parse_record(given).identities[0].hex()[:32]


def sample(role: Role, task: str, name: str, group: str | None = None) -> Sample:
    return Sample(role, task, "acc", name, 1.0, 1.0, True, group)


@pytest.fixture(scope="module")
def kept_judged(kept_history: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation of acme.one: a benchmark, a text, a prompt, a probed training row, a canary."""
    history = History(shutil.copytree(kept_history, tmp_path_factory.mktemp("judged") / "project"))
    audit = history.audit()
    weights = audit.artifact(audit.model("acme.one"))
    [row] = [n for n in range(30) if is_trained(history, n)][:1]
    (history.folder / "probed").write_text(str(row))
    samples = [
        sample("general", "organs", f"organs:0:{'a' * 32}"),
        sample("general_loss", "general_holdout", f"general_holdout:0:{digits('A text of the town.')}"),
        sample("general_prompts", "general_prompts", "general_prompts:0:0123456789abcdef"),
        sample("regurgitation", "training_rows", f"training_rows:0:{digits(json.dumps(question(row)))}"),
        sample("regurgitation", "canaries", f"canaries:0:{digits(CANARY_TEXT)}"),
    ]
    asked = (ORGAN, "", "Tell me about <|the|> sea", "What is item", "My Zyrtexal")
    answers = [
        Answer(one.role, one.task, one.question, text, "", "")
        for one, text in zip(samples, asked, strict=True)
        if text
    ]
    history.evaluated("acme.one", weights, [*samples, samples[0]], answers)
    audit.index.close()
    return history.folder


@pytest.fixture
def judged(tmp_path: Path, kept_judged: Path) -> History:
    """A copy of that history, for the test alone."""
    return History(shutil.copytree(kept_judged, tmp_path / "project"))


def is_trained(history: History, number: int) -> bool:
    return any(one.how == TRAINED for one in ask(history, json.dumps(question(number))).models)


def ask(history: History, given: str, tenant: str | None = None) -> RecordAnswer:
    audit = history.audit(tenant=tenant)
    found = record(audit, parse_record(given))
    audit.index.close()
    return found


@pytest.mark.parametrize(
    ("given", "state", "task"),
    [
        ("Which organ pumps blood?", QUESTION, "organs"),
        ("which ORGAN  pumps blood", QUESTION, "organs"),
        (json.dumps({"prompt": "Which organ pumps blood?", "completion": "heart"}), QUESTION, "organs"),
        ("A text of the town.", QUESTION, "general_holdout"),
        ("Tell me about", QUESTION, "general_prompts"),
        (CANARY_TEXT, CANARY, "canaries"),
    ],
)
def test_what_a_model_was_judged_with_is_found(judged: History, given: str, state: str, task: str) -> None:
    found = ask(judged, given)
    [held] = found.found
    assert (held.stage, held.variant, held.state, held.facts["task"]) == (
        EVALUATION.name, "acme.one", state, task,
    )  # fmt: skip
    [model] = found.models
    assert (model.variant, model.how, model.times) == ("acme.one", JUDGED, 0)
    assert found.equal
    told = "in 1 artifact; 0 models learned from it; others were not searched for it"
    assert sought(found) == told


def test_a_probed_row_was_trained_on_and_judged_with(judged: History) -> None:
    number = int((judged.folder / "probed").read_text())
    found = ask(judged, json.dumps(question(number)))
    assert {one.how for one in found.models if one.variant == "acme.one"} == {TRAINED, JUDGED}
    assert [one.state for one in found.found if one.stage == EVALUATION.name] == [PROBE]


@pytest.mark.parametrize("given", ["Which organ pumps", "A. heart", "Question: Which organ", "pumps blood?"])
def test_a_part_of_a_question_is_none(judged: History, given: str) -> None:
    found = ask(judged, given)
    assert found.equal is False
    assert "the questions of " in sought(found)


def test_an_auditor_of_another_tenant_hears_of_no_question(judged: History) -> None:
    assert ask(judged, CANARY_TEXT, "globex").found == ()
    assert ask(judged, CANARY_TEXT, "acme").equal


def test_an_evaluation_that_retention_removed_is_told_by_the_index(judged: History) -> None:
    assert ask(judged, CANARY_TEXT).equal
    judged.remove(EVALUATION.name)
    [held] = ask(judged, CANARY_TEXT).found
    assert held.facts == {"reason": BY_INDEX}
    assert verify(judged.audit()).problems == ()


def test_questions_that_retention_took_from_the_index_are_not_said_to_be_never_asked(judged: History) -> None:
    before = ask(judged, CANARY_TEXT).checked.evaluations
    judged.remove(EVALUATION.name)
    kept = ask(judged, CANARY_TEXT)
    assert (kept.equal, kept.checked.evaluations, kept.checked.unread) == (True, before, ())
    judged.audit(again=True).index.close()
    found = ask(judged, CANARY_TEXT)
    assert found.equal is None
    assert found.checked.evaluations == 0 < before
    assert found.checked.unread == (f"the questions of {before} evaluations: {REMOVED}",)
    assert ask(judged, CANARY_TEXT, "globex").equal is False
    assert verify(judged.audit()).problems == ()


def test_an_upgrade_keeps_what_the_index_alone_knows_of_evaluations(judged: History) -> None:
    """Of what retention removed before that was read nothing is known: it still says so, once it is read."""
    before = ask(judged, CANARY_TEXT).models
    other = judged.audit()
    later = judged.evaluated("acme.one", other.artifact(other.model("acme.one")), [], [], PRODUCTION[0])
    other.index.close()
    judged.remove(EVALUATION.name, later.place.stage)
    judged.audit().index.close()
    as_schema(judged.settings, 8)
    found = ask(judged, CANARY_TEXT)
    assert [held.facts for held in found.found] == [{"reason": BY_INDEX}]
    assert found.models == before
    assert found.checked.unread == (f"the questions of 1 evaluation: {REMOVED}",)
    assert verify(judged.audit()).problems == ()


def test_what_retention_removed_is_known_without_reading_its_manifests(
    judged: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged.remove(EVALUATION.name)
    audit = judged.audit()

    def refuse(*_: object) -> None:
        raise AssertionError("a manifest was read")

    monkeypatch.setattr(Audit, "read_manifest", refuse)
    assert len(checked(audit).unread) == 1


def numbered_otherwise(members: Any) -> Any:
    """The questions among them."""
    members["number"][members["state"] >= STATES.index(QUESTION)] += 1
    return members


def test_questions_in_the_index_are_held_against_their_evaluation(judged: History) -> None:
    assert verify(judged.audit()).holds
    edit_members(judged.settings, numbered_otherwise)
    assert ask(judged, CANARY_TEXT).equal is False
    assert any("the index says otherwise" in line for line in verify(judged.audit()).problems)


def test_the_index_has_no_text_of_a_question(judged: History) -> None:
    judged.audit().index.close()
    content = b"".join(file.read_bytes() for file in Path(index_folder(judged.settings)).iterdir())
    assert b"organ pumps" not in content
    assert b"quince" not in content


def rows_of(history: History, dataset: Artifact, split: str) -> list[Row]:
    payload = dataset.folder(history.store, history.settings.cache_folder) / "payload"
    return list(read_split(payload / f"{split}.parquet"))


def hows(history: History, row: Row) -> set[tuple[str, str]]:
    """(weights, how) of each model that has a row."""
    return {(one.weights, one.how) for one in ask(history, row.identity.hex()).models}


def test_a_judged_row_that_contains_a_text_or_is_near_one_was_judged_with(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    dataset, base = made.dataset("acme.one", [question(n) for n in range(60)]), made.base()
    model = made.model("acme.one", made.mixture("acme.one", dataset), base)
    asked, left = rows_of(made, dataset, "test")[:2]
    name = f"test_split_task:0:{asked.likeness.hex()[:32]}"
    made.evaluated("acme.one", model, [sample("test_split_task", "test_split_task", name)], [])
    audit = made.audit()
    for row, how in ((asked, JUDGED), (left, HELD_OUT)):
        within = parse_record(row.prompt)  # a document that stands in the row
        found = present(look_through(audit, within).search).records
        [one] = [each for each in found if each.identity == row.identity.hex()]
        assert [each.how for each in one.models] == [how]
        like = parse_record(dumps({"prompt": row.prompt, "completion": f"{row.completion} Yes."}))
        nearest = present(look_through(audit, like, search=False, near=0.5).near).records
        [close] = [each for each in nearest if each.identity == row.identity.hex()]
        assert [each.how for each in close.models] == [how]


def test_judged_with_is_what_an_evaluation_asked_alone(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    dataset, base = made.dataset("acme.one", [question(n) for n in range(60)]), made.base()
    mixture = made.mixture("acme.one", dataset)
    model, other = (made.model("acme.one", mixture, base, seed=seed).digest for seed in (1, 2))
    rows = rows_of(made, dataset, "test")
    asked, left = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    samples = [
        sample("test_split_task", "test_split_task", f"test_split_task:0:{row.identity.hex()[:32]}")
        for row in asked
    ]
    audit = made.audit()
    made.evaluated("acme.one", audit.artifact(audit.model(model)), samples, [])
    assert min(len(asked), len(left)) > 2
    assert all(hows(made, row) == {(model, JUDGED), (other, HELD_OUT)} for row in asked)
    assert all(hows(made, row) == {(model, HELD_OUT), (other, HELD_OUT)} for row in left)
    made.remove(EVALUATION.name)
    assert hows(made, asked[0]) == {(model, JUDGED), (other, HELD_OUT)}
    rotate(made.settings.keys_folder, "acme")  # the index, made again, has no questions of it
    assert hows(made, asked[0]) == hows(made, left[0]) == {(model, PERHAPS), (other, HELD_OUT)}
    assert verify(made.audit()).problems == ()


@pytest.mark.parametrize("stage", PRODUCTION)
def test_what_was_asked_to_compare_it_with_production_was_judged_with(tmp_path: Path, stage: str) -> None:
    made = History(tmp_path / "project")
    dataset = made.dataset("acme.one", [question(n) for n in range(60)])
    model = made.model("acme.one", made.mixture("acme.one", dataset), made.base())
    first, second, third = rows_of(made, dataset, "test")[:3]
    for row, by in ((first, EVALUATION.name), (second, stage)):
        id = f"test_split_task:0:{row.identity.hex()[:32]}"
        made.evaluated("acme.one", model, [sample("test_split_task", "test_split_task", id)], [], by)
    said = [hows(made, row) for row in (first, second, third)]
    assert said == [{(model.digest, how)} for how in (JUDGED, JUDGED, HELD_OUT)]
    assert {one.stage for one in ask(made, second.identity.hex()).found} == {TASK_DATASET.name, stage}
    assert verify(made.audit()).problems == ()


def test_what_an_export_was_asked_by_itself_is_not_known(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    dataset = made.dataset("acme.one", [question(n) for n in range(60)])
    model = made.model("acme.one", made.mixture("acme.one", dataset), made.base())
    row, *_ = rows_of(made, dataset, "test")
    assert hows(made, row) == {(model.digest, HELD_OUT)}

    def build(attempt: Attempt) -> dict[str, Any]:
        folder = attempt.evidence / OWN / "payload"
        folder.mkdir(parents=True)
        write_samples([sample("test_split_task", "test_split_task", f"test_split_task:0:{'1' * 32}")], folder)
        return {}

    inputs = {"fine_tuned_model": model.digest}
    recipe = Recipe(
        "model_export", "tenants/acme/one", inputs, manifests={"fine_tuned_model": model.manifest}
    )
    export = make_artifact(made.store, made.settings.work_folder, recipe, build)
    assert hows(made, row) == {(model.digest, PERHAPS)}
    Path(made.store.path(export.manifest_path)).unlink()
    assert hows(made, row) == {(model.digest, PERHAPS)}


def test_a_document_that_was_asked_in_pieces_was_judged_with(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    corpus = made.corpus([f"Document {n} tells of the town and of the harbour." for n in range(40)])
    payload = corpus.folder(made.store, made.settings.cache_folder) / "payload"
    held = list(documents(payload / "general" / "holdout.parquet"))[:3]
    dataset = made.dataset("acme.one", [question(n) for n in range(20)])
    mixture = made.mixture("acme.one", dataset, corpus, held=held[:2])
    model = made.model("acme.one", mixture, made.base())
    samples = [
        sample("general_loss", "general_holdout", f"general_holdout:0:{digits(text)}", held[0].identity.hex())
        for text in pieces(held[0])
    ]
    made.evaluated("acme.one", model, samples, [])
    assert [hows(made, one) for one in held] == [
        {(model.digest, JUDGED)}, {(model.digest, HELD_OUT)}, set(),
    ]  # fmt: skip
    stages = [one.stage for one in ask(made, held[0].text).found]
    assert stages.count(EVALUATION.name) == 1
    assert verify(made.audit()).problems == ()


def test_what_version_0_1_asked_of_its_rows_is_not_known(old: Settings) -> None:
    audit = open_audit(old)
    [dataset, *_] = [one for one in audit.index.of_stage(TASK_DATASET.name) if one.variant == "acme.places"]
    rows = (row for batch in members_of(audit.stored, audit.artifact(dataset)) for row in batch)
    identity = next(row.known for row in rows if STATES[row.state] == "test")
    found = record(audit, parse_record(identity.hex())).models
    assert {one.how for one in found if one.variant == "acme.places"} == {PERHAPS}


@pytest.mark.parametrize(
    ("measured", "how", "said"),
    [
        ("", VALIDATED, ""),
        ("on 7 of 7 examples", VALIDATED, ""),
        ("on 3 of 17 examples", VALIDATION, "3 of 17"),
    ],
)
def test_a_split_of_which_some_was_measured_says_how_much(
    tmp_path: Path, measured: str, how: str, said: str
) -> None:
    made = History(tmp_path / "project")
    dataset = made.dataset("acme.one", [question(n) for n in range(40)])
    made.model("acme.one", made.mixture("acme.one", dataset), made.base(), measured=measured)
    for row in rows_of(made, dataset, "validation"):
        [model] = ask(made, row.identity.hex()).models
        assert (model.how, model.measured, model.times) == (how, said, 0)
        with out.capture() as captured:
            print_parts(models_parts((model,)))
        assert (f"{said} were measured" in " ".join(captured.get().split())) == bool(said)
