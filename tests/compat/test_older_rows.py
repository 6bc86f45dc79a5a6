"""Rows of before record trees: a run makes them again, and a mixture by itself says what is to be done."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from ft_dagster.data.rows.dataset_io import ORIGINS
from ft_dagster.records.record_tree import FIGURES, TREE, TreeHead
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import version_of
from ft_dagster.stages import task_dataset, training_mixture
from ft_dagster.stages.chain import CHAIN, run_chain, up_to
from ft_dagster.stages.task_dataset import DatasetInputs
from ft_dagster.store import Attempt
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import POLICY, write_project
from tests.kept_project import OLD_PROJECT
from tests.stage_version import set_version

pytestmark = pytest.mark.slow


def at(project: Path, tenant: str) -> Workspace:
    return Workspace(load_settings(project), VariantKey(tenant, "places"), RunOf(say=lambda line: None))


def made_again(workspace: Workspace, older: str) -> None:
    """A whole run up to the mixture, upon a data set of this digest."""
    outcome = run_chain(workspace, up_to("training_mixture"))
    assert outcome.error is None, outcome.error
    rows, mixture = (outcome.made[stage] for stage in ("task_dataset", "training_mixture"))
    assert rows.predicate["stage_version"] == version_of("task_dataset")
    assert mixture.inputs["task_dataset"] == rows.digest
    assert TreeHead.of(mixture.figures) is not None
    assert all(check.passed for check in training_mixture.judge(workspace, mixture))
    assert rows.digest == older or not older


def test_a_run_upon_a_store_of_0_1_makes_a_mixture_with_its_records(tmp_path: Path) -> None:
    """Its data set had other payloads; a mixture by itself is refused, not left without records."""
    project = tmp_path / "project"
    shutil.copytree(OLD_PROJECT, project)
    (project / "policy.yaml").write_text(json.dumps(POLICY), "utf-8")
    workspace = at(project, "globex")
    alone = run_chain(workspace, (training_mixture.STAGE,))
    assert "older than record trees. Materialize task_dataset" in str(alone.error)
    made_again(at(project, "globex"), older="")


@pytest.mark.long
def test_a_data_set_of_version_2_is_made_again_and_then_the_mixture(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows.parquet did not say of which source a row is, and it had no tree."""

    def build(inputs: DatasetInputs, context: BuildContext, attempt: Attempt) -> dict[str, Any]:
        figures = task_dataset.build(inputs, context, attempt)
        rows = attempt.evidence / ORIGINS
        parquet.write_table(parquet.read_table(rows).drop_columns(["source", "licence", "group"]), rows)
        (attempt.evidence / TREE).unlink()
        return {name: figure for name, figure in figures.items() if name != FIGURES}

    project = write_project(tmp_path / "project", tiny_model_folder)
    workspace = at(project, "acme")
    with monkeypatch.context() as patched:
        set_version(patched, "task_dataset", 2)
        made = run_chain(workspace, (*CHAIN[:2], replace(task_dataset.STAGE, build=build))).made
    alone = run_chain(workspace, (training_mixture.STAGE,))
    assert "older than record trees. Materialize task_dataset" in str(alone.error)
    made_again(at(project, "acme"), made["task_dataset"].digest)


@pytest.mark.long
def test_rows_looked_through_by_former_rules_are_looked_through_again_and_nothing_else_is_made(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where questions are found that were not before, the same texts of questions give other rows."""
    project = write_project(tmp_path / "project", tiny_model_folder)
    with monkeypatch.context() as patched:
        set_version(patched, "task_dataset", 3)
        set_version(patched, "training_mixture", 4)
        before = run_chain(at(project, "acme"), up_to("training_plan")).made
    after = run_chain(at(project, "acme"), up_to("training_plan")).made
    anew = {stage for stage, artifact in after.items() if artifact.place != before[stage].place}
    assert anew == {"task_dataset", "training_mixture"}
    assert [after[stage].digest for stage in after] == [before[stage].digest for stage in after]
    assert after["training_plan"].reused
