"""The workspace of an experiment: its own heads, one declaration throughout, nothing exported or released."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_dagster.automation.experiments import experiments
from ft_dagster.automation.experiments.experiments import ExperimentRun, carry_out, open_experiment
from ft_dagster.errors import UserError
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey, load_variant
from ft_dagster.stages import model_export
from ft_dagster.stages.release import release
from ft_dagster.workspace.workspace import Trial, Workspace
from tests.e2e.project import edit, write_project

KEY = VariantKey("acme", "places")


@pytest.fixture
def trial(tmp_path: Path) -> Workspace:
    folder = write_project(tmp_path / "project", tmp_path / "base")
    declared = load_variant(folder, KEY)
    return Workspace(load_settings(folder), KEY, trial=Trial("sweep-1/1", declared, {"method.rank": 2}))


def test_an_experiment_is_neither_exported_nor_released(trial: Workspace) -> None:
    with pytest.raises(UserError, match="neither exported nor released"):
        release(trial)
    with pytest.raises(UserError, match="neither exported nor released"):
        trial.make(model_export.STAGE)


def test_an_edited_file_changes_no_run_of_an_experiment_that_began(trial: Workspace) -> None:
    edit(trial.declared_in, lambda content: content.update(description="edited meanwhile"))
    spec = trial.declared().spec
    assert (spec.description, spec.method.given["rank"]) == ("answers where things are", 2)


def test_heads_of_an_experiment_lie_apart(trial: Workspace) -> None:
    assert trial.heads == "tenants/acme/places/experiments/sweep-1/1"


def test_a_defect_fails_one_run_and_leaves_the_others(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_project(tmp_path / "project", tiny_model_folder)
    settings, declared = load_settings(folder), load_variant(folder, KEY)

    def broken(*_: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(experiments, "run_chain", broken)
    with open_experiment(settings, declared, "sweep", {}, [ExperimentRun(1, "one", {})]) as experiment:
        carry_out(experiment, experiment.runs[0])
    assert experiment.runs[0].status == "failed"
    assert "ValueError: a defect" in str(experiment.runs[0].error)
