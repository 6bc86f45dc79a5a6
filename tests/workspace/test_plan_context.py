"""What a plan goes by beside the declaration: judging is priced by what was counted of the data."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from ft_dagster.planning.context import hardware_of
from ft_dagster.planning.cost.questions import NOT_COUNTED, QuestionsThere
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages import evaluation_texts
from ft_dagster.store import find_artifact
from ft_dagster.versions.preview import plan_variant
from ft_dagster.workspace.plan_context import context_of
from ft_dagster.workspace.workspace import Trial, Workspace
from tests.e2e.project import write_project
from tests.present import present


def context(workspace: Workspace, of: Workspace) -> PlanContext:
    spec = of.spec
    hardware = hardware_of(spec, of.trains_on(spec.resources), of.project)
    return context_of(
        workspace.context, spec, of.upstream("base_model"), workspace.head("training_mixture"), hardware
    )


def test_the_test_split_and_the_declared_tasks_are_counted(chained: Workspace) -> None:
    texts = find_artifact(chained.store, chained.recipe(evaluation_texts.STAGE)[0].place)
    quiz = present(texts).figures["by_task"]["sea_quiz"]
    rows = chained.upstream("task_dataset").figures["rows"]
    assert (rows["test"] > 0, quiz > 0) == (True, True)
    there = QuestionsThere(rows["test"], (quiz,), train=rows["train"])
    assert context(chained, chained).questions == there


def test_a_plan_goes_by_nothing_of_other_tenants(chained: Workspace) -> None:
    """Neither by how many variants they have on the base, nor by what their trainings reached."""
    theirs = Workspace(chained.settings, VariantKey("globex", "places"), chained.run)
    spec, base = theirs.declared().spec, chained.upstream("base_model")
    assert spec.base_model == chained.spec.base_model
    hardware = hardware_of(spec, theirs.trains_on(spec.resources), theirs.project)
    found = context_of(theirs.context, spec, base, theirs.head("training_mixture"), hardware)
    assert (found.variants, found.finished) == (1, ())
    own = context(chained, chained)
    assert (own.variants, len(own.finished)) == (1, 1)


def test_a_plan_is_the_same_beside_another_tenant_and_without(
    chained: Workspace, tmp_path: Path, tiny_model_folder: Path
) -> None:
    """Its text, its JSON and its warnings: acme trained on the base, where there is an acme."""
    project = write_project(tmp_path / "alone", tiny_model_folder)
    shutil.rmtree(project / "tenants" / "acme")
    key = VariantKey("globex", "places")
    alone, beside = (plan_variant(each, key) for each in (load_settings(project), chained.settings))
    assert beside.to_json() == alone.to_json()


def test_before_there_is_a_mixture_nothing_is(chained: Workspace) -> None:
    trial = Trial("nobody-was-here", chained.declared())
    assert context(replace(chained, trial=trial), chained).questions == NOT_COUNTED
