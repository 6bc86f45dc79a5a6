"""Runs whose job has not begun, and what a job is told: without a Slurm."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from ft_dagster.automation.slurm import waiting
from ft_dagster.automation.slurm.order import order_of
from ft_dagster.automation.slurm.waiting import tell_waiting
from ft_dagster.launch.processes import GRACE
from ft_dagster.launch.slurm import SlurmOptions
from tests.present import present

LAUNCHER = {"module": "ft_dagster.automation.slurm.launcher", "class": "SlurmRunLauncher"}


@dg.op
def nothing() -> None: ...


@dg.job
def idle() -> None:
    nothing()


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """An instance whose Slurm knows of no job."""
    (tmp_path / "squeue").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "squeue").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({"run_launcher": {**LAUNCHER, "config": {}}}))
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


def starting(instance: dg.DagsterInstance) -> dg.DagsterRun:
    origin = dg.reconstructable(idle).get_python_origin()
    run = instance.create_run_for_job(idle, job_code_origin=origin)
    begins = dg.DagsterEvent(dg.DagsterEventType.PIPELINE_STARTING.value, run.job_name)
    instance.report_dagster_event(begins, run.run_id)
    return run


@pytest.mark.slow
def test_a_run_whose_daemon_was_killed_before_its_job_was_named_fails_once_no_launch_can_take_so_long(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = starting(instance)
    tell_waiting(instance)
    assert present(instance.get_run_by_id(run.run_id)).status == dg.DagsterRunStatus.STARTING
    monkeypatch.setattr(waiting, "SUBMITTING_SECONDS", 0.0)
    tell_waiting(instance)
    assert present(instance.get_run_by_id(run.run_id)).status == dg.DagsterRunStatus.FAILURE


@pytest.mark.slow
def test_a_job_is_told_how_long_it_has_to_save(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    _, script = order_of(SlurmOptions(grace_seconds=90), instance, starting(instance), str(tmp_path))
    assert f"export {GRACE}=45" in script.splitlines()
