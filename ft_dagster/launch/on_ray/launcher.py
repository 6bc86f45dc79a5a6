"""Trainings as jobs of a Ray cluster, by Ray's own client of its jobs.

An order's attempt names its job, so a step that was killed finds its job again and follows it.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from ft_dagster.cluster import TENANT, RaySettings
from ft_dagster.errors import UserError
from ft_dagster.exit_codes import CANCELLED, DONE, TRANSIENT
from ft_dagster.launch.launcher import Job, Say, credentials, ending
from ft_dagster.launch.leases import Ask
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.launch.on_ray.head import Unknown, answered, first_line, need_client
from ft_dagster.launch.on_ray.job_log import JobLog
from ft_dagster.launch.remote.folders import NodeDisk
from ft_dagster.launch.remote.node import OPTIONS, OWN
from ft_dagster.launch.remote.offer import threads_of
from ft_dagster.launch.remote.order import RemoteOrder, read_order
from ft_dagster.launch.remote.passed import options_to_pass, refuse_secret_variables
from ft_dagster.launch.remote.relay import Relay, relay_of
from ft_dagster.launch.remote.staging import Staging, belongings_of
from ft_dagster.program import ProgramResult
from ft_dagster.settings import FILE, Settings

DRIVER = "ft_dagster.launch.on_ray.driver"
VARIABLES = "ray.runtime_env.env_vars"
LIVING = ("PENDING", "RUNNING")
STOP_SECONDS = 120  # that Ray gives the driver to end its nodes before it kills it
END_SECONDS = STOP_SECONDS + 30.0  # after which a job that was to end is waited for no longer
T = TypeVar("T")


@dataclass
class RayJob:
    """A submitted job. `ended`: what Ray said of its end. `silent_since`: the head has not answered since."""

    id: str
    attempt: str
    log: JobLog
    relay: Relay
    ended: str = ""
    silent_since: float | None = None


def check(settings: Settings) -> None:
    """Raises UserError where Ray's client is not installed, or a setting has credentials in it."""
    file = settings.project / FILE
    need_client(file)
    options_to_pass(settings.store_options, file)
    refuse_secret_variables(settings.cluster.environment, "cluster.environment", file)
    refuse_secret_variables(variables_of(settings), VARIABLES, file)


def variables_of(settings: Settings) -> dict[str, Any]:
    """Return the variables that the platform gives to jobs of Ray. Raises UserError where they are none."""
    variables = (settings.ray or RaySettings()).runtime_env.get("env_vars", {})
    if not isinstance(variables, dict):
        file, fix = settings.project / FILE, "Write {NAME: value}"
        raise UserError("not variables by their names", file=file, field=VARIABLES, fix=fix)
    return variables


def open_launcher(settings: Settings, tenant: str) -> RayLauncher:
    """With the tenant's credentials. Raises UserError, see `check`."""
    check(settings)
    options = options_to_pass(settings.store_options, settings.project / FILE)
    return RayLauncher(
        settings.ray or RaySettings(), Staging(settings.open_store(tenant), settings.cluster), options
    )


@dataclass
class RayLauncher:
    """`options`: of the store, for the nodes, as JSON."""

    settings: RaySettings
    staging: Staging
    options: str

    @cached_property
    def client(self) -> Any:
        """Connected when it is first asked for."""
        from ray.job_submission import JobSubmissionClient

        return JobSubmissionClient(self.settings.address)

    def stage_in(self, job: Job) -> None:
        """A job that already does this very work is left alone; another of the same training is ended."""
        threads = threads_of(self.staging.cluster, _ask(job))
        before = self.staging.order_before(job)
        if before is None:
            self.staging.send(job, self.staging.prepare(job, _ask(job).nodes, threads))
            return
        with ending(lambda: self._end(_id(before.attempt))):
            order = self.staging.prepare(job, _ask(job).nodes, threads)
            state = self._state(before.attempt)
            if state in (*LIVING, "SUCCEEDED") and before.does_what(order):
                return
            if state in LIVING:
                self._answer(lambda: self._stop(_id(before.attempt)))
            self.staging.send(job, order)

    def start(self, job: Job, say: Say) -> RayJob:
        order = read_order(self.staging.store, belongings_of(job).place)
        job_id = _id(order.attempt)
        with ending(lambda: self._end(job_id)):
            if self._state(order.attempt) is None:
                each = self.resources(_ask(job))
                self._answer(lambda: self._submit(job, order, each))
                amounts = ", ".join(f"{amount:g} {name}" for name, amount in each.items())
                say(f"Ray job {job_id} for {job.lessee}: {order.nodes} node(s) with {amounts}")
            else:
                say(f"Ray job {job_id} for {job.lessee} was found running, and is followed")
            return RayJob(job_id, order.attempt, JobLog(self.client, job_id), relay_of(job.environment))

    def report(self, started: RayJob, say: Say) -> int | None:
        _pass_on(started, started.log.lines(1.0), say)
        try:
            info = answered(lambda: self.client.get_job_info(started.id))
        except Unknown:
            raise self._lost(f"has been restarted, and knows nothing of job {started.id}") from None
        except OSError as error:
            started.silent_since = started.silent_since or time.monotonic()
            if self._is_given_up(started):
                raise self._silent(error) from error
            return None
        started.silent_since = None
        if not info.status.is_terminal():
            return None
        _pass_on(started, started.log.close(), say)
        started.ended = str(info.message or "")
        if info.status == "SUCCEEDED":
            return DONE
        if info.status == "STOPPED":
            return CANCELLED
        code = info.driver_exit_code
        return TRANSIENT if code is None else int(code)

    def cancel(self, started: RayJob) -> None:
        """Of a head that is given up already, what it ran ends with it: that is tried once."""
        given_up = self._is_given_up(started)
        try:
            self._end(started.id, 0.0 if given_up else END_SECONDS)
        finally:
            started.log.close(0)

    def collect(self, job: Job, started: RayJob, exit_code: int) -> ProgramResult:
        self.staging.collect(job, started.attempt)
        if exit_code == TRANSIENT and started.ended and not job.result_file.exists():
            raise ProgramFailed(
                f"Ray job {started.id}: {first_line(started.ended)}",
                "Run it again: it goes on from what was kept",
                mendable=True,
            )
        return job.read_result(exit_code)

    def resources(self, ask: Ask) -> dict[str, float]:
        """What each node of a training is to give."""
        cluster = self.staging.cluster
        own = {"GPU": float(ask.count)} if cluster.gpus else {"CPU": float(ask.count)}
        name = self.settings.tenant_resource
        tenant = {name.replace(TENANT, ask.tenant): float(ask.count)} if name else {}
        return {**own, **tenant, **self.settings.resources}

    def _submit(self, job: Job, order: RemoteOrder, each: dict[str, float]) -> None:
        store, place = self.staging.store, belongings_of(job).place
        nodes = ["--nodes", str(order.nodes), "--each", json.dumps(each)]
        nodes += NodeDisk.of(self.staging.cluster).arguments
        command = ["python", "-P", "-m", DRIVER, place, "--store", store.url, *nodes]
        given = dict(self.settings.runtime_env)
        own = {OPTIONS: self.options, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
        named = {**given.get("env_vars", {}), **self.staging.environment}
        variables = {**named, **own, **credentials(job.profile)}
        try:
            self.client.submit_job(
                entrypoint=f"exec {shlex.join(command)}",
                submission_id=_id(order.attempt),
                runtime_env={**given, "env_vars": variables},
                metadata={"ft_dagster_variant": job.lessee, "ft_dagster_run": _ask(job).run_id},
            )
        except (TypeError, ValueError) as error:
            fix = "See what Ray's runtime environment of a job may have"
            raise UserError(first_line(str(error)), field="ray.runtime_env", fix=fix) from None

    def _is_given_up(self, started: RayJob) -> bool:
        since = started.silent_since
        return since is not None and time.monotonic() - since > self.settings.silent_seconds

    def _end(self, job_id: str, bears: float = END_SECONDS) -> None:
        """Stop a job and have it forgotten; `bears`: seconds of silence, see `_stop`."""
        try:
            self._stop(job_id, bears)
            self._answer(lambda: self.client.delete_job(job_id))
        except Unknown:
            return
        except (OSError, UserError, ProgramFailed) as error:  # the last of a job that Ray could not end
            print(f"Ray job {job_id} is lost to us: {error}", file=sys.stderr, flush=True)

    def _stop(self, job_id: str, bears: float = END_SECONDS) -> None:
        """Ask for its end, and wait for it. Further interrupts do not hurry it, and a head that does not
        answer is asked again for so many seconds. Raises OSError after them, Unknown, UserError.
        """
        began, pause, asked = time.monotonic(), 0.0, False
        while True:
            waited = time.monotonic() - began
            try:
                time.sleep(pause)
                pause = 0.5
                if not asked:
                    answered(lambda: self.client.stop_job(job_id))
                    asked = True
                info = answered(lambda: self.client.get_job_info(job_id))
                if info.status.is_terminal() or waited > END_SECONDS:
                    return
            except OSError:
                if waited >= bears:
                    raise
            except (KeyboardInterrupt, SystemExit):
                print(f"still ending Ray job {job_id}", file=sys.stderr, flush=True)

    def _state(self, attempt: str) -> str | None:
        """PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED; None where the cluster knows of no such job."""
        try:
            return str(self._answer(lambda: self.client.get_job_info(_id(attempt))).status.value)
        except Unknown:
            return None

    def _answer(self, call: Callable[[], T]) -> T:
        """What the head answers, waited for. Raises Unknown, ProgramFailed."""
        deadline = time.monotonic() + self.settings.silent_seconds
        while True:
            try:
                return answered(call)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise self._silent(error) from error
                time.sleep(1.0)

    def _silent(self, error: OSError) -> ProgramFailed:
        seconds = f"{self.settings.silent_seconds:.0f} s"
        return self._lost(f"has not answered for {seconds} ({first_line(str(error))})")

    def _lost(self, what: str) -> ProgramFailed:
        return ProgramFailed(
            f"the Ray head at {self.settings.address} {what}",
            "Look at it, or at `ray.address` in ft_dagster.yaml, and run it again",
            mendable=True,
        )


def _id(attempt: str) -> str:
    return f"ft_dagster-{attempt}"


def _ask(job: Job) -> Ask:
    if job.ask is None:
        raise ValueError(f"{job.module} asks for no devices")
    return job.ask


def _pass_on(started: RayJob, lines: list[str], say: Say) -> None:
    """Messages into the step's session, what nodes say of themselves to its log, all else to its output."""
    for line in lines:
        rest = started.relay.pass_on(line)
        if rest.startswith(OWN):
            say(rest.removeprefix(OWN))
        elif rest or not line:
            print(rest, flush=True)
