"""Where asking ends once the gate is decided: nobody ends it when it suits, and production is met as ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.gate.samples import SAMPLES, read_samples
from ft_dagster.lineage.release import history
from ft_dagster.lineage.tries import tries
from ft_dagster.provenance.digest import hash_folder, payload_digest
from ft_dagster.report.sentences.next_step import SERVED
from ft_dagster.stages.chain import CHAIN, run_chain
from ft_dagster.stages.judging.verdicts import rejudge
from ft_dagster.stages.release import Released, release
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import edit, write_project
from tests.security.pretend import KEY, PREFIX, Pretend, desk

pytestmark = pytest.mark.slow
FILE = f"tenants/{KEY.tenant}/{KEY.variant}.yaml"
GATES = {
    "general_margin": 0.05,
    "general_loss_margin": 0.3,
    "regression_margin": 0.05,
    "regression_loss_margin": 1.0,
    "loss_tail": 0.5,
}
RIGHT = {"base": 0.2, "first": 0.9, "alike": 0.9, "worse": 0.6}
ALL = 2000


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    folder = write_project(tmp_path_factory.mktemp("batches") / "project", tiny_model_folder)

    def adjust(content: dict[str, Any]) -> None:
        content["gates"] = GATES
        content["evaluation"].update(limit="auto")
        content["data"]["decontaminate"] = {"enabled": False}

    edit(folder / FILE, adjust)
    edit(folder / "policy.yaml", lambda content: content["evaluation"].update(questions=ALL))
    return folder


def train(project: Path, name: str, ends: str | None = None) -> tuple[Workspace, Pretend]:
    """Run the chain with another seed, which leaves the weights `name`; `ends`: what it ends with."""
    edit(project / FILE, lambda content: content["training"].update(seed=sum(name.encode())))
    pretend = Pretend(name, RIGHT)
    workspace = desk(project, pretend)
    outcome = run_chain(workspace, CHAIN)
    assert (outcome.error is None) == (ends is None), outcome.error
    assert (ends or "") in (outcome.error or "")
    return workspace, pretend


def counted(workspace: Workspace, stage: str) -> dict[str, int]:
    """Questions asked of each task."""
    payload = workspace.payload(workspace.upstream(stage))
    asked = {(sample.task, sample.question) for sample in read_samples(payload)}
    tasks = [task for task, _ in sorted(asked)]
    return {task: tasks.count(task) for task in dict.fromkeys(tasks)}


@pytest.fixture(scope="module")
def first(project: Path) -> tuple[Workspace, Pretend, Released]:
    workspace, pretend = train(project, "first")
    return workspace, pretend, release(workspace)


def test_the_base_is_asked_everything_and_the_weights_until_each_rule_is_decided(
    first: tuple[Workspace, Pretend, Released],
) -> None:
    workspace, _, released = first
    assert set(counted(workspace, "base_evaluation").values()) == {ALL}
    asked = counted(workspace, "evaluation")
    assert asked["test_split_task"] == 60  # better by far
    assert 100 < asked["sea_quiz"] < 200  # of which no answer changed
    assert {rule.there for rule in released.verdict.rules} == {ALL}
    assert released.next == SERVED


def test_the_looks_of_an_evaluation_are_one_try(first: tuple[Workspace, Pretend, Released]) -> None:
    workspace, _, released = first
    assert released.verdict.tries == 1
    assert len(tries(workspace.store, PREFIX, workspace.upstream("fine_tuned_model").digest)) == 1


@pytest.mark.long
def test_weights_that_are_told_from_production_too_late_are_asked_on(
    project: Path, first: tuple[Workspace, Pretend, Released]
) -> None:
    """60 answers showed the task to be better than the base's, and no loss of 5 points to be ruled out."""
    workspace, pretend = train(project, "alike")
    assert counted(workspace, "evaluation")["test_split_task"] == 60
    after = pretend.ran[pretend.ran.index("export") + 1 :]
    assert after == ["evaluation", "evaluation"]  # production's weights, and the new ones
    ran = len(pretend.ran)
    released = release(workspace)
    assert len(pretend.ran) == ran
    (own,) = [r for r in released.verdict.rules if r.rule == "regression" and r.task == "test_split_task"]
    assert (own.outcome, own.questions) == ("pass", 135)
    assert [entry.version for entry in history(workspace.store, PREFIX)] == [1, 2]
    assert release(workspace).entry == released.entry


def test_worse_weights_than_those_in_production_are_not_released(
    project: Path, first: tuple[Workspace, Pretend, Released]
) -> None:
    workspace, pretend = train(project, "worse", ends="release_evaluation: regression did not pass")
    assert len(pretend.ran) - pretend.ran.index("export") - 1 <= 2
    ran = len(pretend.ran)
    for _ in range(2):
        with pytest.raises(UserError, match=r"against version \d in production, the task"):
            release(workspace)
    assert len(pretend.ran) == ran


def test_samples_that_end_earlier_than_the_looks_say_are_no_evaluation(
    project: Path, first: tuple[Workspace, Pretend, Released], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the program had been made to stop: its samples are whole, and too few."""
    workspace, _ = train(project, "first")
    evaluation, tuned = workspace.upstream("evaluation"), workspace.upstream("fine_tuned_model")
    before = workspace.upstream("base_evaluation")
    whole = read_samples(workspace.payload(evaluation))
    quiz = [sample for sample in whole if sample.role == "general"]
    kept = [sample for sample in whole if sample.role != "general"] + quiz[:90]
    assert rejudge(workspace.context, workspace.spec, tuned, evaluation, before).passed

    def fewer(folder: Path) -> Any:
        return kept if folder == workspace.payload(evaluation) else read_samples(folder)

    monkeypatch.setattr("ft_dagster.stages.evaluation.read_samples", fewer)
    with pytest.raises(UserError, match="ended after 90 questions, before anything was decided"):
        rejudge(workspace.context, workspace.spec, tuned, evaluation, before)


def test_what_the_rules_were_decided_against_is_in_what_was_measured(
    first: tuple[Workspace, Pretend, Released],
) -> None:
    workspace, *_ = first
    measured = workspace.upstream("evaluation").figures["measured"]
    before = workspace.payload(workspace.upstream("base_evaluation"))
    (file,) = [file for file in hash_folder(before) if file.path == SAMPLES]
    assert measured["data"]["before"] == file.sha256
    assert measured["limit"] == "auto"
    assert payload_digest(hash_folder(before)) == workspace.upstream("base_evaluation").digest


def test_a_floor_above_the_most_that_is_asked_is_not_met(project: Path) -> None:
    edit(project / "policy.yaml", lambda content: content["evaluation"].update(questions=ALL + 1))
    workspace = desk(project, Pretend())
    with pytest.raises(UserError, match=r"at least 2001 questions a task"):
        release(workspace)
