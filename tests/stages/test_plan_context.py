"""What a plan goes by beside the declaration: judging is priced by what was counted of the data."""

from __future__ import annotations

from dataclasses import replace

from ft_dagster.planning.context import hardware_of
from ft_dagster.planning.cost.questions import NOT_COUNTED, QuestionsThere
from ft_dagster.planning.survey import PlanContext
from ft_dagster.stages import evaluation_texts
from ft_dagster.stages.plan_context import context_of
from ft_dagster.stages.workspace import Trial, Workspace
from ft_dagster.store import find_artifact
from tests.present import present


def context(workspace: Workspace, of: Workspace) -> PlanContext:
    spec = of.spec
    hardware = hardware_of(spec, of.trains_on, of.project)
    return context_of(workspace, spec, of.upstream("base_model"), hardware)


def test_the_test_split_and_the_declared_tasks_are_counted(chained: Workspace) -> None:
    texts = find_artifact(chained.store, chained.recipe(evaluation_texts.STAGE)[0].place)
    quiz = present(texts).figures["by_task"]["sea_quiz"]
    rows = chained.upstream("task_dataset").figures["rows"]["test"]
    assert (rows > 0, quiz > 0) == (True, True)
    assert context(chained, chained).questions == QuestionsThere(rows, (quiz,))


def test_before_there_is_a_mixture_nothing_is(chained: Workspace) -> None:
    trial = Trial("nobody-was-here", chained.declared())
    assert context(replace(chained, trial=trial), chained).questions == NOT_COUNTED
