"""Runs whose job has not begun or cannot be cancelled, and what a job is told: without a Slurm."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon

from ft_dagster.automation.clusters import watch
from ft_dagster.automation.clusters.waiting import tell_waiting
from ft_dagster.automation.slurm.commands import SlurmOptions
from ft_dagster.automation.slurm.launcher import SlurmRunLauncher
from ft_dagster.automation.slurm.order import name_of, order_of
from ft_dagster.dagster_private import WorkerStatus
from ft_dagster.launch.processes import GRACE
from tests.e2e.instance import wait_until
from tests.present import present

LAUNCHER = {"module": "ft_dagster.automation.slurm.launcher", "class": "SlurmRunLauncher"}
COORDINATOR = {"module": "ft_dagster.automation.coordinator", "class": "VariantRunCoordinator"}


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
    content = {"run_launcher": {**LAUNCHER, "config": {}}, "run_coordinator": COORDINATOR}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(content))
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


def command(folder: Path, name: str, script: str) -> None:
    """A command of Slurm that writes down that it was called."""
    (folder / name).write_text(f'#!/bin/sh\necho "$@" >> {folder}/{name}.calls\n{script}\n')
    (folder / name).chmod(0o700)


def calls(folder: Path, name: str) -> list[str]:
    file = folder / f"{name}.calls"
    return file.read_text().splitlines() if file.is_file() else []


def slurm(folder: Path, *jobs: str) -> None:
    """A controller that answers, and has these jobs."""
    lines = "\n".join(f"echo '{job}'" for job in jobs)
    command(folder, "squeue", f"{lines}\nexit 0")
    for name in ("scancel", "scontrol"):
        command(folder, name, "exit 0")


def no_slurm(folder: Path) -> None:
    for name in ("squeue", "scancel", "scontrol"):
        command(folder, name, "echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1")


def started(instance: dg.DagsterInstance) -> dg.DagsterRun:
    run = starting(instance)
    begun = dg.DagsterEvent(dg.DagsterEventType.PIPELINE_START.value, run.job_name)
    instance.report_dagster_event(begun, run.run_id)
    return present(instance.get_run_by_id(run.run_id))


def status(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    return present(instance.get_run_by_id(run.run_id)).status


def told(instance: dg.DagsterInstance, run: dg.DagsterRun, word: str) -> int:
    return sum(word in str(entry.message) for entry in instance.all_logs(run.run_id))


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
    monkeypatch.setattr(SlurmRunLauncher, "submitting_seconds", 0.0)
    tell_waiting(instance)
    assert present(instance.get_run_by_id(run.run_id)).status == dg.DagsterRunStatus.FAILURE


@pytest.mark.slow
def test_a_job_is_told_how_long_it_has_to_save(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    _, script = order_of(SlurmOptions(grace_seconds=90), instance, starting(instance), str(tmp_path))
    assert f"export {GRACE}=45" in script.splitlines()


@pytest.mark.slow
def test_a_poll_of_many_runs_asks_slurm_once_and_again_of_those_alone_that_it_did_not_list(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    runs, lost = [started(instance) for _ in range(4)], started(instance)
    others = ["5|an array|RUNNING|n1|None", "6|a|name|RUNNING|n1|None"]
    slurm(tmp_path, *others, *(f"{n}|{name_of(run)}|RUNNING|n1|None" for n, run in enumerate(runs, 10)))
    launcher = instance.run_launcher
    found = [launcher.check_run_worker_health(run).status for run in (*runs, lost)]
    assert found == [WorkerStatus.RUNNING] * 4 + [WorkerStatus.NOT_FOUND]
    asked = calls(tmp_path, "squeue")
    assert [name_of(lost) in each for each in asked] == [False, True]


@pytest.mark.slow
def test_a_poll_of_many_runs_waits_once_for_a_controller_that_is_away(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    runs = [started(instance) for _ in range(4)]
    no_slurm(tmp_path)
    launcher = instance.run_launcher
    found = {launcher.check_run_worker_health(run).status for run in runs}
    assert found == {WorkerStatus.RUNNING}
    assert len(calls(tmp_path, "squeue")) == 1


@pytest.mark.slow
def test_a_cancel_that_slurm_does_not_answer_leaves_the_run_as_it_is(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run, launcher = started(instance), instance.run_launcher
    no_slurm(tmp_path)
    assert not launcher.terminate(run.run_id)
    assert status(instance, run) == dg.DagsterRunStatus.STARTED
    assert told(instance, run, "Cancel it again") == 1
    slurm(tmp_path, f"77|{name_of(run)}|RUNNING|n1|None")
    assert launcher.terminate(run.run_id)
    assert status(instance, run) == dg.DagsterRunStatus.CANCELING
    assert calls(tmp_path, "scancel") == ["--batch --signal=INT 77"]


@pytest.mark.slow
def test_a_job_that_could_not_be_ended_is_ended_once_slurm_answers_though_its_run_counts_as_cancelled(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other, launcher = started(instance), started(instance), instance.run_launcher
    jobs = [f"77|{name_of(run)}|RUNNING|n1|None", f"78|{name_of(other)}|RUNNING|n1|None"]
    assert isinstance(launcher, SlurmRunLauncher)
    slurm(tmp_path, *jobs)
    for name in ("scancel", "scontrol"):  # the controller falls silent after it was asked what there is
        command(tmp_path, name, "echo 'Unable to contact slurm controller' >&2; exit 1")
    launcher.terminate(run.run_id)
    assert told(instance, run, "could not be ended") == 1
    instance.report_run_canceled(run, "Run timed out due to taking longer than 300 seconds to cancel.")
    no_slurm(tmp_path)
    watch.look(instance)
    slurm(tmp_path, *jobs)
    for _ in range(3):
        watch.look(instance)
    assert calls(tmp_path, "scancel") == ["--batch --signal=INT 77"]  # and no second time within its grace
    assert status(instance, other) == dg.DagsterRunStatus.STARTED
    later = time.time() + 1000
    monkeypatch.setattr("time.time", lambda: later)
    watch.look(instance)
    assert len(calls(tmp_path, "scancel")) == 2


@pytest.mark.slow
def test_a_run_that_was_cancelled_long_ago_and_has_no_job_is_not_asked_about_again(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, launcher = started(instance), instance.run_launcher
    assert isinstance(launcher, SlurmRunLauncher)
    instance.report_run_canceled(run)
    slurm(tmp_path)
    watch.look(instance)
    watch.look(instance)
    assert len(calls(tmp_path, "squeue")) == 2  # its job may yet be made
    monkeypatch.setattr(watch, "SETTLED", timedelta(0))
    watch.look(instance)
    watch.look(instance)
    assert len(calls(tmp_path, "squeue")) == 3


@pytest.mark.slow
def test_the_daemon_watches_from_its_first_look_at_the_queue_until_the_instance_is_closed(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, queue = starting(instance), QueuedRunCoordinatorDaemon(interval_seconds=5)
    slurm(tmp_path, f"77|{name_of(run)}|PENDING||Resources")
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(SlurmRunLauncher, "submitting_seconds", 0.0)
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as process, queue:
        for _ in range(2):
            assert [each for each in queue.run_iteration(process) if each] == []
    wait_until(lambda: told(instance, run, "waits: Resources"), 30)
    (looking,) = [thread for thread in threading.enumerate() if thread.name == "run-watch"]
    instance.dispose()
    looking.join(30)
    assert not looking.is_alive()
