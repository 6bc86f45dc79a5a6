"""Which runs need a daemon, and when the daemon of a command ends, with a real instance and processes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import EngineEventData
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from ft_dagster.automation.processes import daemon_program
from ft_dagster.automation.processes.daemon_program import Watch
from ft_dagster.automation.processes.unfinished import (
    UnfinishedWork,
    awaits_retry,
    come_to_each_failure,
    is_retried,
    work_left,
)
from ft_dagster.automation.run_launcher import Machine, here, tell_launch
from ft_dagster.launch.locks import EXCLUSIVE, SHARED, lock, unlock
from tests.automation.retries import RETRIES, decide_on_retries
from tests.instances import ORIGIN, lay_databases
from tests.present import present

pytestmark = pytest.mark.slow

STATUS = dg.DagsterRunStatus


@dg.job
def nothing() -> None:
    """A job without a step."""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    lay_databases(tmp_path)
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=RETRIES) as made:
        yield made


@pytest.fixture
def dead() -> int:
    """The pid of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def make(
    instance: dg.DagsterInstance,
    status: STATUS,
    pid: int | None = None,
    host: Machine | None = None,
    **tags: str,
) -> dg.DagsterRun:
    """A run in that state, launched on a host (this one), whose process has told its `pid`."""
    named = {name.replace("__", "/"): value for name, value in tags.items()}
    run = instance.create_run_for_job(nothing, status=status, tags=named, remote_job_origin=ORIGIN)
    if pid is not None:
        tell_launch(instance, run, host or present(here()))
        instance.report_engine_event("Started process for run", run, EngineEventData.in_process(pid))
    return run


def failed(instance: dg.DagsterInstance, will_retry: bool = True, **tags: str) -> dg.DagsterRun:
    """A run whose process was killed, and of which Dagster said whether it runs it again."""
    run = make(instance, STATUS.STARTED, None, None, **tags)
    instance.report_run_failed(run)
    instance.add_run_tags(run.run_id, {"dagster/will_retry": str(will_retry).lower()})
    return present(instance.get_run_by_id(run.run_id))


def test_runs_that_wait_or_whose_process_lives_need_a_daemon(instance: dg.DagsterInstance, dead: int) -> None:
    waiting = make(instance, STATUS.QUEUED)
    living = make(instance, STATUS.STARTED, os.getpid())
    coming = make(instance, STATUS.STARTING)
    make(instance, STATUS.STARTED, dead)
    make(instance, STATUS.STARTED, os.getpid(), Machine("other", "boot"))
    make(instance, STATUS.NOT_STARTED)
    make(instance, STATUS.SUCCESS, os.getpid())
    work = work_left(instance)
    assert work.waiting == {waiting.run_id}
    assert work.active == {living.run_id, coming.run_id}


def test_a_failed_run_needs_a_daemon_until_it_is_run_again(instance: dg.DagsterInstance) -> None:
    come_to_each_failure(instance)
    pending = failed(instance)
    failed(instance, dagster__auto_retry_run_id="another")
    failed(instance, will_retry=False)
    assert work_left(instance).active == {pending.run_id}


@pytest.mark.long
def test_a_retry_that_dagster_does_not_make_is_waited_for_no_longer(instance: dg.DagsterInstance) -> None:
    """As of a run whose job it cannot find: it says so in its log, and leaves the tag that says it will."""
    come_to_each_failure(instance)
    run = instance.create_run_for_job(nothing, status=STATUS.STARTED)
    instance.report_run_failed(run)
    instance.add_run_tags(run.run_id, {"dagster/will_retry": "true"})
    run = present(instance.get_run_by_id(run.run_id))
    assert awaits_retry(instance, run)
    decide_on_retries(instance)
    left = present(instance.get_run_by_id(run.run_id))
    assert left.tags["dagster/will_retry"] == "true"
    assert not is_retried(instance, left)
    assert work_left(instance).active == set()


def test_a_retry_that_was_made_since_a_run_was_read_is_seen(instance: dg.DagsterInstance) -> None:
    come_to_each_failure(instance)
    run = failed(instance)
    instance.add_run_tags(run.run_id, {"dagster/auto_retry_run_id": "another"})
    decide_on_retries(instance)
    assert is_retried(instance, run)


@pytest.mark.long
def test_an_instance_that_runs_none_again_any_more_is_waited_for_no_longer(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=RETRIES) as instance:
        come_to_each_failure(instance)
        run = failed(instance)
        assert is_retried(instance, run)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        assert not is_retried(instance, run)


def test_a_run_that_failed_before_there_was_a_daemon_is_not_waited_for(instance: dg.DagsterInstance) -> None:
    """A plain daemon passes over it; the one of a command comes to each that fails while it starts."""
    before = failed(instance)
    assert not is_retried(instance, before)
    come_to_each_failure(instance)
    assert not is_retried(instance, before)
    assert is_retried(instance, failed(instance))
    come_to_each_failure(instance)
    assert is_retried(instance, failed(instance))


@pytest.mark.long
def test_a_failed_run_of_a_backfill_is_not_run_again_once_that_has_ended(
    instance: dg.DagsterInstance,
) -> None:
    """As Dagster has it, whatever the tag says; one that it ran again before counts as that."""
    come_to_each_failure(instance)
    for name, status in (("going", BulkActionStatus.REQUESTED), ("ended", BulkActionStatus.CANCELED)):
        instance.add_backfill(
            PartitionBackfill(name, status, from_failure=False, tags={}, backfill_timestamp=time.time())
        )
    runs = {of: failed(instance, dagster__backfill=of) for of in ("going", "ended", "removed")}
    assert {of for of, run in runs.items() if is_retried(instance, run)} == {"going"}
    assert work_left(instance).active == {runs["going"].run_id}
    again = failed(instance, dagster__backfill="ended", dagster__auto_retry_run_id="another")
    assert is_retried(instance, again)


def test_what_a_schedule_submits_after_the_last_command_does_not_keep_the_daemon(
    instance: dg.DagsterInstance,
) -> None:
    run = make(instance, STATUS.QUEUED, dagster__sensor_name="due_retrains")
    assert work_left(instance, time.time() - 60).waiting == set()
    assert work_left(instance, time.time() + 60).waiting == {run.run_id}


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(daemon_program, "WORK_SECONDS", 0.0)
    return tmp_path / "commands.lock"


def test_a_daemon_ends_once_no_command_lives_and_keeps_others_out(
    instance: dg.DagsterInstance, commands: Path
) -> None:
    first, second = lock(commands, SHARED), lock(commands, SHARED)
    assert first is not None
    assert second is not None
    watch = Watch(instance, commands)
    assert not watch.look()
    unlock(first)
    assert not watch.look()
    unlock(second)
    assert watch.look()
    assert lock(commands, SHARED) is None


def test_a_daemon_without_a_command_stays_for_a_run_and_lets_commands_in(
    instance: dg.DagsterInstance, commands: Path
) -> None:
    run = make(instance, STATUS.STARTED, os.getpid())
    watch = Watch(instance, commands)
    assert not watch.look()
    free = lock(commands, EXCLUSIVE)
    assert free is not None
    unlock(free)
    instance.report_run_canceled(run)
    assert watch.look()


def test_a_run_that_is_submitted_while_a_daemon_decides_is_not_left_alone(
    instance: dg.DagsterInstance, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked_too_early(*arguments: object) -> UnfinishedWork:
        found = work_left(instance)
        if not found.waiting:
            make(instance, STATUS.QUEUED)
        return found

    monkeypatch.setattr(daemon_program, "work_left", asked_too_early)
    watch = Watch(instance, commands)
    assert not watch.look()
    free = lock(commands, SHARED)
    assert free is not None
    unlock(free)


def test_a_daemon_does_not_wait_for_ever_for_runs_that_nobody_takes(
    instance: dg.DagsterInstance, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(instance, STATUS.QUEUED)
    watch = Watch(instance, commands)
    assert not watch.look()
    monkeypatch.setattr(daemon_program, "STUCK_SECONDS", 0.0)
    assert watch.look()


def test_a_daemon_whose_instance_cannot_be_asked_ends(
    instance: dg.DagsterInstance, commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(instance, STATUS.QUEUED)

    def broken(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(daemon_program, "work_left", broken)
    watch = Watch(instance, commands)
    assert not watch.look()
    monkeypatch.setattr(daemon_program, "BLIND_SECONDS", 0.0)
    assert watch.look()
