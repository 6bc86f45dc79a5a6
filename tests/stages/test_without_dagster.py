"""The chain by Python alone, and through Dagster: the same artifacts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ft_dagster.lineage.release import production
from ft_dagster.report.sentences.next_step import SERVED
from ft_dagster.settings import load_settings
from ft_dagster.stages.chain import CHAIN, failed_check, run_chain
from ft_dagster.stages.release import release
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import write_project
from tests.present import present

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_it_makes_and_releases_the_artifacts_that_it_makes_through_dagster(
    chained: Workspace, tmp_path: Path, tiny_model_folder: Path
) -> None:
    alone = Workspace(load_settings(write_project(tmp_path / "project", tiny_model_folder)), chained.key)
    outcome = run_chain(alone)
    assert outcome.error is None, outcome.error
    for stage in CHAIN:
        mine, theirs = alone.upstream(stage.name), chained.upstream(stage.name)
        assert mine.place == theirs.place, stage.name
        assert mine.digest == theirs.digest, stage.name
    assert release(alone).next == SERVED
    assert present(production(alone.store, alone.prefix)).export == chained.upstream("model_export").digest


def test_a_second_run_makes_nothing(chained: Workspace) -> None:
    again = run_chain(Workspace(chained.settings, chained.key))
    assert again.error is None
    assert [stage.name for stage in CHAIN] == list(again.made)
    assert all(artifact.reused for artifact in again.made.values())


def test_every_check_of_every_stage_is_declared(chained: Workspace) -> None:
    for stage in CHAIN:
        artifact = chained.upstream(stage.name)
        assert {check.name for check in stage.judge(chained, artifact)} == set(stage.checks)
        assert failed_check(chained, stage, artifact) is None


def test_nothing_of_the_stages_imports_dagster() -> None:
    program = (
        "import sys, ft_dagster.stages.chain, ft_dagster.versions.preview; print('dagster' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
