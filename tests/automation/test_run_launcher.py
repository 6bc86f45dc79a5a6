"""A run that was killed with all that watched it is ended by Dagster's own monitoring, and run again:
under deploy/one-machine's dagster.yaml, with the real daemon.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import yaml
from dagster._core.events import EngineEventData
from dagster._core.launcher import LaunchRunContext
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring import execute_run_monitoring_iteration

from ft_dagster.automation import run_pods
from ft_dagster.automation.processes.instance import failure_of, launch, open_instance, opened, write_home
from ft_dagster.automation.ray import order as ray_order
from ft_dagster.automation.run_launcher import Machine, here, process_of, tell_launch
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declarations, VariantKey
from ft_dagster.strict_json import dumps
from tests.automation.declarations import declare
from tests.e2e.instance import BIN, running, wait_until
from tests.e2e.project import command_environment
from tests.present import present

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LOCATION = Path(__file__).parent / "programs/waiting.py"
STATUS = dg.DagsterRunStatus
KEY = VariantKey.parse("acme.support")
ENDED = {STATUS.SUCCESS, STATUS.FAILURE, STATUS.CANCELED}


class OneMachine:
    """A project whose instance is that of deploy/one-machine, with a plain `dagster-daemon`."""

    def __init__(self, folder: Path, storage: dict[str, Any]) -> None:
        declare(folder, str(KEY))
        self.folder, self.settings = folder, load_settings(folder)
        self.home = self.settings.dagster_home
        self.home.mkdir(parents=True)
        content = yaml.safe_load((ROOT / "deploy/one-machine/dagster.yaml").read_text("utf-8"))
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(content | storage))
        location = {"relative_path": str(LOCATION), "location_name": "ft_dagster"}
        (self.home / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [{"python_file": location}]}))
        self.environment = command_environment(folder) | write_home(self.settings)

    @contextmanager
    def daemon(self) -> Iterator[psutil.Process]:
        command: list[str | Path] = [BIN / "dagster-daemon", "run", "-w", self.home / "workspace.yaml"]
        with running(command, self.environment) as process:
            yield psutil.Process(process.pid)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        with opened(self.home) as instance:
            yield instance

    def submit(self) -> str:
        with self.instance() as instance:
            (run,) = launch(instance, self.settings, [KEY], "test")
        return run.run_id

    def runs(self) -> dict[str, dg.DagsterRun]:
        with self.instance() as instance:
            return {run.run_id: run for run in instance.get_runs()}

    def statuses(self) -> dict[str, STATUS]:
        return {run_id: run.status for run_id, run in self.runs().items()}

    def starts(self, run_id: str) -> bool:
        return self.statuses()[run_id] == STATUS.STARTED and (self.folder / f"{run_id}.pid").is_file()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.long)])
def machine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OneMachine:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("FT_DAGSTER_PROJECT", str(tmp_path))
    if request.param == "sqlite":
        return OneMachine(tmp_path, {})
    address = request.getfixturevalue("postgres").new_database()
    return OneMachine(tmp_path, {"storage": {"postgres": {"postgres_url": address}}})


def kill_all(daemon: psutil.Process) -> None:
    """As a killed host does: daemon, code server and run at once."""
    for process in [daemon, *daemon.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.long
def test_a_run_that_was_killed_with_its_daemon_is_ended_and_run_again_and_its_variant_goes_on(
    machine: OneMachine,
) -> None:
    first = machine.submit()
    with machine.daemon() as daemon:
        wait_until(lambda: machine.starts(first))
        second = machine.submit()
        wait_until(lambda: machine.statuses()[second] == STATUS.QUEUED)
        kill_all(daemon)
    assert machine.statuses() == {first: STATUS.STARTED, second: STATUS.QUEUED}
    (machine.folder / "go").touch()
    with machine.daemon():
        wait_until(lambda: len(machine.runs()) == 3 and ENDED.issuperset(machine.statuses().values()))
    runs = machine.runs()
    (again,) = [run for run in runs.values() if run.parent_run_id == first]
    assert runs[first].status == STATUS.FAILURE
    assert {runs[second].status, again.status} == {STATUS.SUCCESS}
    with machine.instance() as instance:
        assert f"its process ({(machine.folder / f'{first}.pid').read_text()}" in failure_of(instance, first)


@pytest.mark.long
def test_a_run_that_was_killed_with_its_code_server_is_ended_and_run_again_while_the_daemon_lives(
    machine: OneMachine,
) -> None:
    first = machine.submit()
    with machine.daemon() as daemon:
        wait_until(lambda: machine.starts(first))
        servers = [process for process in daemon.children() if "grpc" in process.cmdline()]
        for process in [*servers, psutil.Process(int((machine.folder / f"{first}.pid").read_text()))]:
            process.kill()
        (machine.folder / "go").touch()
        wait_until(lambda: len(machine.runs()) == 2 and ENDED.issuperset(machine.statuses().values()))
    assert machine.statuses()[first] == STATUS.FAILURE
    assert list(machine.statuses().values()).count(STATUS.SUCCESS) == 1


@dg.job
def nothing() -> None:
    """A job without a step."""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """That of deploy/one-machine, in files."""
    shutil.copy(ROOT / "deploy/one-machine/dagster.yaml", tmp_path)
    with opened(tmp_path) as made:
        yield made


@pytest.fixture
def dead() -> int:
    """The pid of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


HERE = present(here())


def started(instance: dg.DagsterInstance, pid: int, host: Machine | None = HERE) -> dg.DagsterRun:
    """A run in progress, launched on this host, whose process has told its pid."""
    run = instance.create_run_for_job(nothing, status=STATUS.STARTED)
    if host is not None:
        tell_launch(instance, run, host)
    instance.report_engine_event("Started process for run", run, EngineEventData.in_process(pid))
    return run


def monitored(instance: dg.DagsterInstance) -> None:
    """One round of Dagster's own run monitoring."""
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as process:
        assert not any(execute_run_monitoring_iteration(process, logging.getLogger("monitoring")))


def status(instance: dg.DagsterInstance, run: dg.DagsterRun) -> STATUS:
    return present(instance.get_run_by_id(run.run_id)).status


def test_dagsters_monitoring_ends_runs_of_this_host_whose_process_is_gone_and_no_others(
    instance: dg.DagsterInstance, dead: int
) -> None:
    living, gone = started(instance, os.getpid()), started(instance, dead)
    monitored(instance)
    assert (status(instance, living), status(instance, gone)) == (STATUS.STARTED, STATUS.FAILURE)
    said = failure_of(instance, gone.run_id)
    assert f"its process ({dead} on {HERE.name}) has ended, and told nobody" in said


def test_runs_of_another_host_are_unknown_and_stay(instance: dg.DagsterInstance, dead: int) -> None:
    elsewhere = started(instance, dead, Machine("other 0123456789ab", HERE.boot))
    untold = started(instance, dead, None)
    monitored(instance)
    assert {status(instance, run) for run in (elsewhere, untold)} == {STATUS.STARTED}
    assert process_of(instance, elsewhere.run_id).state == "elsewhere"
    assert process_of(instance, untold.run_id).state == "untold"


def test_a_run_from_before_its_host_was_started_anew_is_gone_whoever_has_its_pid_now(
    instance: dg.DagsterInstance,
) -> None:
    run = started(instance, os.getpid(), HERE._replace(boot="another"))
    monitored(instance)
    assert status(instance, run) == STATUS.FAILURE


def told(instance: dg.DagsterInstance, pid: int, uptime: float, at: float) -> dg.DagsterRun:
    """A run that was launched at an uptime of this host, when its clock said `at`."""
    run = instance.create_run_for_job(nothing, status=STATUS.STARTED)
    launch = {"host": HERE.name, "boot": HERE.boot, "uptime": str(uptime)}
    for data in (
        EngineEventData({name: dg.MetadataValue.text(value) for name, value in launch.items()}),
        EngineEventData.in_process(pid),
    ):
        event = dg.DagsterEvent("ENGINE_EVENT", "nothing", message="", event_specific_data=data)
        instance.report_dagster_event(event, run.run_id, timestamp=at)
    return run


def test_a_process_that_got_the_pid_of_a_run_is_not_taken_for_it_whatever_the_clock_said(
    instance: dg.DagsterInstance,
) -> None:
    now, uptime = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
    with subprocess.Popen(["sleep", "60"]) as process:
        earlier = told(instance, process.pid, uptime - 60, now - 60)
        clock_was_behind = told(instance, process.pid, uptime, now - 24 * 3600)
        clock_was_ahead = told(instance, process.pid, uptime - 60, now + 24 * 3600)
        monitored(instance)
        process.kill()
    assert status(instance, earlier) == STATUS.FAILURE
    assert status(instance, clock_was_behind) == STATUS.STARTED
    assert status(instance, clock_was_ahead) == STATUS.FAILURE


def test_a_run_that_two_daemons_launched_lives_while_one_of_its_processes_does(
    instance: dg.DagsterInstance, dead: int
) -> None:
    run = started(instance, os.getpid())
    tell_launch(instance, run, HERE)
    instance.report_engine_event("Started process for run", run, EngineEventData.in_process(dead))
    monitored(instance)
    assert status(instance, run) == STATUS.STARTED


def test_an_instance_that_an_older_version_made_has_killed_runs_ended_by_a_commands_daemon(
    tmp_path: Path,
) -> None:
    (tmp_path / "dagster.yaml").write_text("run_monitoring: {enabled: true, poll_interval_seconds: 7}\n")
    with opened(tmp_path) as instance:
        assert instance.run_launcher.supports_check_run_worker_health
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_poll_interval_seconds == 7


def test_a_launcher_that_a_platform_chose_stays(tmp_path: Path) -> None:
    chosen = {"module": "dagster._core.launcher", "class": "DefaultRunLauncher"}
    content = {"run_launcher": chosen, "run_monitoring": {"enabled": False}}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(content))
    with opened(tmp_path) as instance:
        assert not instance.run_launcher.supports_check_run_worker_health
        assert not instance.run_monitoring_enabled


@pytest.mark.parametrize(
    ("settings", "launcher", "setting"),
    [
        ({"ray": {}}, "RunJobLauncher", "ray"),
        ({"kubernetes": {}, "work": "/work", "store": "s3://models/x"}, "RunPodLauncher", "kubernetes"),
    ],
)
def test_a_run_that_the_settings_send_to_a_cluster_is_not_started_on_this_host(
    tmp_path: Path, settings: dict[str, Any], launcher: str, setting: str
) -> None:
    """As where ft_dagster.yaml was written for the cluster, and dagster.yaml is still that of one machine."""
    declare(tmp_path, str(KEY))
    (tmp_path / "ft_dagster.yaml").write_text(yaml.safe_dump(settings))
    loaded = load_settings(tmp_path)
    one = Declarations(loaded.project).declared(KEY)
    tag = (
        {ray_order.CONFIG: dumps(ray_order.job_of(loaded, "run", KEY.tenant, one, computes=True))}
        if setting == "ray"
        else run_pods.written(run_pods.pod_of(loaded, KEY.tenant, one, computes=True), {})
    )
    with open_instance(loaded) as instance:
        run = instance.create_run_for_job(nothing, tags=tag)
        instance.run_launcher.launch_run(LaunchRunContext(run, None))
        failed = present(instance.get_run_by_id(run.run_id))
        assert failed.status == STATUS.FAILURE
        assert failed.tags.get("dagster/will_retry") != "true"
        said = " ".join(str(entry.message) for entry in instance.all_logs(run.run_id))
        assert f"Have its dagster.yaml name {launcher}" in said
        assert f"take `{setting}` out" in said
