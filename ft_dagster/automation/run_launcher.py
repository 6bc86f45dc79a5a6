"""Is Dagster's own run launcher, which can also say whether a run's process lives.

Dagster calls a run STARTED until its process, or the code server that started it, says otherwise: one that
was killed together with its code server would be STARTED for ever, and keep every later run of its variant in
the queue. By what this launcher says, Dagster's run monitoring ends such a run, and its daemon runs it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import dagster as dg

from ft_dagster.automation.clusters.waiting import fail_for_good
from ft_dagster.automation.patience import START_SECONDS
from ft_dagster.dagster_private import (
    CheckRunHealthResult,
    EngineEventData,
    GrpcServerCodeLocation,
    IWorkspaceProcessContext,
    LaunchRunContext,
    ManagedGrpcPythonEnvCodeLocationOrigin,
    WorkerStatus,
)
from ft_dagster.errors import UserError

LAUNCHER = {
    "module": __name__,
    "class": "HostRunLauncher",
}  # of an instance's dagster.yaml, as what follows is
MONITORING = {"enabled": True, "start_timeout_seconds": START_SECONDS, "poll_interval_seconds": 30}
MACHINES_PIDS = "pid:[4026531836]"  # the namespace of a machine's own pids, by Linux' constant
CLOCK_SECONDS = 2.0  # by which a process seems to have started after it told its pid
HOST, BOOT, UPTIME = "host", "boot", "uptime"


class Machine(NamedTuple):
    """Names a machine, or a container, in which a pid names one process. `name`: with its id; `boot`: another
    one each time that it is started. Nothing is known of a machine of another name.
    """

    name: str
    boot: str


class KnownProcess(NamedTuple):
    """Says what this machine knows of a run's process. `untold`: its log names no machine or no pid yet;
    `elsewhere`: it names another machine.
    """

    state: Literal["lives", "gone", "untold", "elsewhere"]
    said: str


class HostRunLauncher(dg.DefaultRunLauncher):
    """Launches runs as `DefaultRunLauncher` does, and first notes the host in the run's log. One that the
    settings of its project send to a cluster it fails: here it would find no GPU, or take those of this host.
    """

    _workspace: IWorkspaceProcessContext[Any] | None = None  # of the daemon, once it launched a run

    def launch_run(self, context: LaunchRunContext) -> None:
        if (elsewhere := _refused(context.dagster_run)) is not None:
            fail_for_good(context.dagster_run, self._instance, elsewhere)
            return
        if context.workspace is not None:
            self._workspace = context.workspace.process_context
        host = here()
        if host is not None and _is_started_here(context):
            tell_launch(self._instance, context.dagster_run, host)
        super().launch_run(context)

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return NOT_FOUND of a process that has ended, once the daemon can run it again: it tries that once,
        and takes a minute to replace a killed code server. RUNNING of what this host cannot know: Dagster
        would end a run of WorkerStatus.UNKNOWN too.
        """
        process = process_of(self._instance, run.run_id)
        if process.state != "gone":
            return CheckRunHealthResult(WorkerStatus.RUNNING, process.said)
        waits = self._workspace is not None and _is_without_server(self._workspace, run)
        return CheckRunHealthResult(WorkerStatus.RUNNING if waits else WorkerStatus.NOT_FOUND, process.said)


def here() -> Machine | None:
    """Return the machine or container of this process; None where the kernel does not tell it from others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pids = os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
    node, machine = os.uname().nodename, Path("/etc/machine-id")
    told = machine.read_bytes().strip() if machine.is_file() else b""
    whole = f"{node} {pids == MACHINES_PIDS} ".encode() + told  # the id itself is to be kept secret
    return Machine(f"{node} {hashlib.sha256(whole).hexdigest()[:12]}", f"{boot} {pids}")


def tell_launch(instance: dg.DagsterInstance, run: dg.DagsterRun, host: Machine) -> None:
    """Note in the log of a run that its process is about to be started on this host."""
    uptime = str(time.clock_gettime(time.CLOCK_BOOTTIME))
    told = {HOST: host.name, BOOT: host.boot, UPTIME: uptime}
    data = EngineEventData({name: dg.MetadataValue.text(value) for name, value in told.items()})
    instance.report_engine_event(f"Starting the process of this run on {host.name}.", run, data)


class _Launch(NamedTuple):
    """Tells a launch. `uptime`: of the host, `at`: seconds since 1970, both when it was told."""

    host: Machine
    uptime: float
    at: float


def process_of(instance: dg.DagsterInstance, run_id: str) -> KnownProcess:
    """Return what this machine knows of the process of a run in progress, by the run's log."""
    launches, pids = list[_Launch](), list[tuple[int, float]]()
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        told = event.engine_event_data.metadata if event else {}
        if UPTIME in told:
            name, boot, uptime = (str(told[each].value) for each in (HOST, BOOT, UPTIME))
            launches.append(_Launch(Machine(name, boot), float(uptime), entry.timestamp))
        elif "pid" in told:
            pids.append((int(str(told["pid"].value)), entry.timestamp))
    host = here()
    if host is None or not launches:
        return KnownProcess("untold", "it is not known where its process is")
    names = {launch.host.name for launch in launches}
    if names != {host.name}:
        return KnownProcess("elsewhere", f"its process is on {', '.join(sorted(names - {host.name}))}")
    newest = launches[-1]
    if newest.host.boot != host.boot:
        return KnownProcess("gone", f"its process has ended: {host.name} was started anew since")
    if not pids:
        return KnownProcess("untold", "its process has not told its pid yet")
    # Two daemons may have launched it twice, of which one process ends at once.
    if any(_is_alive(pid, newest.uptime + told - newest.at) for pid, told in pids):
        return KnownProcess("lives", f"its process lives on {host.name}")
    return KnownProcess("gone", f"its process ({pids[-1][0]} on {host.name}) has ended, and told nobody")


def _is_alive(pid: int, told: float) -> bool:
    """Say whether that process lives. A process that started after its pid was `told` (the host's uptime
    then) is another one.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # the 22nd field of all
    return fields[0] not in "ZX" and started < told + CLOCK_SECONDS


def _refused(run: dg.DagsterRun) -> UserError | None:
    """Return why a tenant's run is not started here, by the tag that the coordinator wrote; None if it is."""
    from ft_dagster.automation import run_pods
    from ft_dagster.automation.ray import order

    pod, job = (json.loads(run.tags.get(name) or "{}") for name in (run_pods.CONFIG, order.CONFIG))
    if run_pods.is_of_a_tenant(pod):
        setting, launcher, what = "kubernetes", "RunPodLauncher", "pods of Kubernetes"
    elif order.is_of_a_tenant(job):
        setting, launcher, what = "ray", "RunJobLauncher", "jobs of Ray"
    else:
        return None
    return UserError(
        f"runs are {what} by the settings, and this instance starts them on its own host",
        field="run_launcher",
        fix=f"Have its dagster.yaml name {launcher} (docs/deploy.md#{setting}), or take `{setting}` out of "
        "ft_dagster.yaml",
    )


def _is_started_here(context: LaunchRunContext) -> bool:
    """Say whether the run's code server is a child of this process, and so the run is on this host."""
    origin = context.dagster_run.remote_job_origin
    if context.workspace is None or origin is None:
        return False
    location = context.workspace.get_code_location(origin.location_name)
    return isinstance(location.origin, ManagedGrpcPythonEnvCodeLocationOrigin)


def _is_without_server(workspace: IWorkspaceProcessContext[Any], run: dg.DagsterRun) -> bool:
    """Say whether the code server of a run's code does not answer now."""
    origin = run.remote_job_origin
    request = workspace.create_request_context()
    if origin is None or not request.has_code_location_name(origin.location_name):
        return False
    try:
        location = request.get_code_location(origin.location_name)
        if isinstance(location, GrpcServerCodeLocation):
            location.client.ping("")
    except dg.DagsterError:
        return True
    return False
