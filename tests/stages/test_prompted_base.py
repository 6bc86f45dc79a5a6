"""The base with examples in its prompt: asked once, shared, never with a row of what is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.rows.content import normal_text
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.gate.prompted import EXAMPLES, Prompted, prompted_sentences
from ft_dagster.gate.samples import read_answers, read_samples
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import ANSWERS_OF
from ft_dagster.stages import prompted_base
from ft_dagster.stages.chain import run_chain, up_to
from ft_dagster.store import Artifact
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import declaration, edit, write_lines, write_project, write_yaml
from tests.long import mostly_long

pytestmark = pytest.mark.slow
KEY = VariantKey("acme", "places")


@pytest.fixture
def project(tmp_path: Path, tiny_model_folder: Path) -> Path:
    return write_project(tmp_path / "project", tiny_model_folder)


def opened(folder: Path, key: VariantKey = KEY, said: list[str] | None = None) -> Workspace:
    lines = [] if said is None else said
    return Workspace(load_settings(folder), key, RunOf("test", "test", lines.append))


def with_rows(workspace: Workspace) -> Workspace:
    outcome = run_chain(workspace, up_to("task_dataset"))
    assert outcome.error is None, outcome.error
    return workspace


def declared(folder: Path, change: Callable[[Any], None], name: str = "places") -> None:
    edit(folder / "tenants" / "acme" / f"{name}.yaml", change)


def split(workspace: Workspace, name: str) -> dict[str, Any]:
    file = workspace.payload(workspace.upstream("task_dataset")) / f"{name}.parquet"
    return {row.identity.hex(): row for row in read_split(file)}


def examples_of(workspace: Workspace, artifact: Artifact) -> list[str]:
    about = json.loads((workspace.evidence(artifact) / EXAMPLES).read_text("utf-8"))
    return list(about["records"])


@pytest.mark.long
def test_the_base_is_asked_with_each_number_of_examples_on_the_same_validation_rows(project: Path) -> None:
    workspace = with_rows(opened(project))
    made = workspace.make(prompted_base.STAGE)
    found = Prompted.from_json(made.figures)
    asked = {(one.examples, one.questions) for one in found.scores}
    rows = len(split(workspace, "validation"))
    assert (found.rows, found.asked, found.left_out) == (rows, rows, {})
    assert asked == {(0, rows), (4, rows), (8, rows)}
    assert all(one.low <= one.change <= one.high for one in found.judged if one.examples)  # type: ignore[operator]
    names = {sample.task for sample in read_samples(workspace.payload(made))}
    assert names == {"0 examples", "4 examples", "8 examples"}
    assert workspace.make(prompted_base.STAGE).reused


def test_examples_are_of_the_training_split_and_stand_before_the_question(project: Path) -> None:
    workspace = with_rows(opened(project))
    made = workspace.make(prompted_base.STAGE)
    drawn = examples_of(workspace, made)
    train = split(workspace, "train")
    assert len(drawn) == 8
    assert set(drawn) <= set(train)
    assert not set(drawn) & {*split(workspace, "validation"), *split(workspace, "test")}
    answers = read_answers(workspace.evidence(made))
    for answer in answers:
        before = [train[one].messages[-1].content in answer.asked for one in drawn]
        assert sum(before) == int(answer.task.split()[0])
        assert answer.expected not in answer.asked.rpartition("\n")[2]


def test_no_example_has_the_text_of_a_question(project: Path) -> None:
    """All training rows but a few quote a validation question, in capitals."""
    workspace = with_rows(opened(project))
    questions = [row.first_turn for row in split(workspace, "validation").values()]
    file = project / "data" / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    for number, row in enumerate(rows):
        if normal_text(row["instruction"]) not in questions and number % 4:
            row["output"] = f"{row['output']} As to {questions[number % len(questions)].upper()}"
    write_lines(file, rows)
    workspace = with_rows(opened(project))
    made = workspace.make(prompted_base.STAGE)
    asked = [row.first_turn for row in split(workspace, "validation").values()]
    train = split(workspace, "train")
    drawn = examples_of(workspace, made)
    quoting = {
        name
        for name, row in train.items()
        if any(question in text for question in asked for _, text in row.normal)
    }
    assert len(quoting) > len(train) / 2  # a draw that did not look would take some
    assert len(drawn) > 0
    assert not quoting & set(drawn)


def test_variants_of_one_tenant_with_equal_rows_share_the_answers_and_another_tenant_does_not(
    project: Path, tiny_model_folder: Path
) -> None:
    write_yaml(
        project / "tenants" / "acme" / "other.yaml",
        declaration(tiny_model_folder, method={"name": "lora", "rank": 8}),
    )
    first = with_rows(opened(project)).make(prompted_base.STAGE)
    said: list[str] = []
    second = with_rows(opened(project, VariantKey("acme", "other"), said)).make(prompted_base.STAGE)
    assert (second.digest, second.figures[ANSWERS_OF]) == (first.digest, first.place.key)
    assert not any("leased" in line for line in said)
    stranger = with_rows(opened(project, VariantKey("globex", "places"))).make(prompted_base.STAGE)
    assert ANSWERS_OF not in stranger.figures


@pytest.mark.long
def test_of_two_variants_that_ask_at_once_one_asks_and_the_other_takes_over(
    project: Path, tiny_model_folder: Path
) -> None:
    write_yaml(
        project / "tenants" / "acme" / "other.yaml",
        declaration(tiny_model_folder, method={"name": "lora", "rank": 8}),
    )
    said: list[str] = []
    both = [with_rows(opened(project, VariantKey("acme", name), said)) for name in ("places", "other")]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda workspace: workspace.make(prompted_base.STAGE), both)
    assert (ANSWERS_OF in first.figures) != (ANSWERS_OF in second.figures)
    assert first.digest == second.digest
    assert len([line for line in said if "its answers are taken over" in line]) == 1


@pytest.mark.long
def test_another_plan_of_the_data_asks_nothing_anew(project: Path) -> None:
    workspace = with_rows(opened(project))
    before = workspace.make(prompted_base.STAGE)

    def replan(content: Any) -> None:
        content["method"] = {"name": "lora", "rank": 8}
        content["training"].update(num_train_epochs=1, learning_rate=1e-4)
        content["evaluation"]["goal"] = 0.5
        content["gates"]["general_margin"] = 0.9

    declared(project, replan)
    after = with_rows(opened(project)).make(prompted_base.STAGE)
    assert (after.reused, after.place) == (True, before.place)


@pytest.mark.long
def test_where_the_examples_do_not_fit_the_context_that_is_said(
    project: Path, tiny_model_folder: Path
) -> None:
    long = "a house by the sea and a tower of stone and a garden with a bridge " * 12
    file = project / "data" / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    write_lines(file, [{**row, "output": f"{row['output']} {long}"} for row in rows])
    workspace = with_rows(opened(project))
    found = Prompted.from_json(workspace.make(prompted_base.STAGE).figures)
    assert set(found.left_out) == {"8"} or set(found.left_out) == {"4", "8"}
    assert "tokens, and" in found.left_out["8"]
    assert any("8 examples in the prompt were not tried: the longest" in s for s in prompted_sentences(found))
    assert {one.examples for one in found.scores} == {0, 4, 8} - set(map(int, found.left_out))


def test_a_goal_that_examples_reach_says_that_a_training_may_not_be_needed(project: Path) -> None:
    found = Prompted.from_json(with_rows(opened(project)).make(prompted_base.STAGE).figures)
    best = found._replace(scores=tuple(one._replace(value=one.examples / 10) for one in found.scores))
    [line] = prompted_sentences(best, 0.7)
    assert line.startswith("8 examples in the prompt reach 80.0% (token_f1, ")
    assert line.endswith("the goal is 70.0%: a training may not be needed")
    assert "may not be needed" not in " ".join(prompted_sentences(best, 0.9))
    assert "may not be needed" not in " ".join(prompted_sentences(best))


@pytest.mark.parametrize(
    "language",
    mostly_long(
        ["日本語の質問{0}です。場所はどこですか", "Где находится дом номер {0}?", "أين يقع البيت رقم {0}؟"],
        every=3,
    ),
)
def test_rows_of_other_languages_are_asked_and_held_apart(project: Path, language: str) -> None:
    rows = [{"instruction": language.format(n), "input": "", "output": f"{n}"} for n in range(80)]
    write_lines(project / "data" / "rows.jsonl", rows)
    workspace = with_rows(opened(project))
    made = workspace.make(prompted_base.STAGE)
    train, asked = split(workspace, "train"), split(workspace, "validation")
    drawn = examples_of(workspace, made)
    tried = {one.examples for one in Prompted.from_json(made.figures).scores}
    assert len(drawn) == max(tried) >= 4  # the tiny base reads some letters byte by byte
    assert set(drawn) <= set(train)
    for one in drawn:
        assert not any(row.first_turn in text for row in asked.values() for _, text in train[one].normal)


def test_raw_text_declared_tasks_and_splits_without_rows_are_not_asked_and_why_is_said(
    project: Path,
) -> None:
    workspace = with_rows(opened(project))
    dataset = workspace.upstream("task_dataset")
    assert prompted_base.why_not(workspace.spec, dataset) is None
    declared(project, lambda content: content["evaluation"].update(task=["tasks/sea_quiz.yaml"]))
    other = with_rows(opened(project))
    assert "num_fewshot" in str(prompted_base.why_not(other.spec, other.upstream("task_dataset")))
    declared(project, lambda content: content["evaluation"].pop("task"))
    write_lines(
        project / "data" / "rows.jsonl", [{"text": f"A text, number {n}, of a sea."} for n in range(80)]
    )
    text = with_rows(opened(project))
    assert "raw text" in str(prompted_base.why_not(text.spec, text.upstream("task_dataset")))


@pytest.mark.long
def test_killed_in_between_it_is_asked_again_and_stands(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = with_rows(opened(project))
    whole = Workspace.run_program

    def killed(*arguments: Any, **named: Any) -> Any:
        whole(*arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(Workspace, "run_program", killed)
    with pytest.raises(KeyboardInterrupt):
        workspace.make(prompted_base.STAGE)
    monkeypatch.undo()
    made = opened(project).make(prompted_base.STAGE)
    assert not made.reused
    assert opened(project).make(prompted_base.STAGE).digest == made.digest
