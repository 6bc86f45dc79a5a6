"""Is Dagster's own launcher of runs as jobs of Ray (dagster-ray), with what it lacks for tenants: a job that
is made by the coordinator's tag or not at all, and patience with a head that is silent.

dagster-ray hands the whole instance on in the job's command, which all who see the cluster can read, and
takes variables of the daemon's environment along. It ends a run whose job it cannot ask about, and says of a
run that it is being cancelled before it knows whether the head hears of it.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Self

import dagster as dg
from dagster_ray.configs import RayJobSubmissionClientConfig
from dagster_ray.core.run_launcher import RayRunLauncher, get_job_submission_id_from_run_id

from ft_dagster.automation.clusters.command import command_of, environment_of
from ft_dagster.automation.clusters.waiting import (
    ENDED,
    JOB,
    TellsWaiting,
    WaitingRun,
    fail_for_good,
    newest,
    said,
)
from ft_dagster.automation.clusters.watch import EndsJobs
from ft_dagster.automation.ray.head import Unknown, answered, client_of, first_line
from ft_dagster.automation.ray.order import CONFIG, is_of_a_tenant, needs_of
from ft_dagster.automation.ray.waiting import nodes_of
from ft_dagster.automation.tags import NOBODY, TENANT
from ft_dagster.dagster_private import (
    CheckRunHealthResult,
    ConfigurableClassData,
    LaunchRunContext,
    WorkerStatus,
)
from ft_dagster.errors import UserError
from ft_dagster.launch.on_ray.waiting import why
from ft_dagster.settings import PROJECT_VARIABLE

AWAY_SECONDS = 60.0  # in which a head may come back before a run that is launched fails
PYTHON = ("python", "-P", "-m", "dagster")  # of the node
NO_GPU = ("env", "CUDA_VISIBLE_DEVICES=")
log = logging.getLogger(__name__)
LEAST_CPUS = 1  # of a job whose tag says nothing: without resources Ray would put it on the head


class RunJobLauncher(RayRunLauncher, TellsWaiting, EndsJobs):
    """Launches runs as `RayRunLauncher` does, as the jobs that the coordinator wrote into their tags."""

    submitting_seconds = 3 * AWAY_SECONDS

    @property
    def supports_resume_run(self) -> bool:
        """Say no: a run that is lost is run again, by Dagster's retries."""
        return False

    @classmethod
    def config_type(cls) -> Any:
        """Return how the head is reached; what a job gets is said by the settings of its project."""
        return {"ray": RayJobSubmissionClientConfig.to_config_schema().as_field()}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        return cls(inst_data=inst_data, num_cpus=LEAST_CPUS, **config_value["ray"])

    @cached_property
    def client(self) -> Any:
        return client_of(self.address, metadata=self.metadata, headers=self.headers, cookies=self.cookies)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Submit a job, or fail the run in one line; Dagster runs it again, unless that mends nothing."""
        run = context.dagster_run
        try:
            self._submit(run)
        except UserError as error:
            fail_for_good(run, self._instance, error)
        except OSError as error:
            why = f"The Ray head at {self.address} does not answer: {first_line(str(error))}"
            self._instance.report_run_failed(run, why)
        else:
            said(run, self._instance, f"Submitted to Ray as job {_id(run)}", {JOB: _id(run)})

    def terminate(self, run_id: str) -> bool:
        """Interrupt a run's job. Of one that waits no process can say that it is cancelled: Ray starts it
        once there is room for it, and ends it then.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        try:
            job = self._job(run)
            ended = super().terminate(run_id)
        except (OSError, UserError) as error:
            said(run, self._instance, f"Its job could not be cancelled, cancel it again: {error}", {})
            return False
        if job is None or job.status == "PENDING":
            self._instance.report_run_canceled(run)
        return ended

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return RUNNING of what the head does not tell: Dagster ends a run of WorkerStatus.UNKNOWN, and its
        job may go on.
        """
        try:
            job = self._job(run)
        except (OSError, UserError) as error:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"Ray does not say: {error}")
        if job is None:
            gone = "Ray knows of no job of it any more: its head was started anew"
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, gone)
        if job.status.is_terminal():
            return CheckRunHealthResult(WorkerStatus.FAILED, _said_of_end(job))
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def get_run_worker_debug_info(
        self, run: dg.DagsterRun, include_container_logs: bool | None = True
    ) -> str | None:
        """Return nothing: dagster-ray's has the job's whole environment in it."""
        return None

    def waiting(self, runs: Sequence[dg.DagsterRun]) -> Iterable[WaitingRun]:
        nodes = list[dict[str, float]]()
        for run in runs:
            try:
                job = self._job(run)
                if job is None or job.status.is_terminal():
                    how = "Ray has no job of it any more" if job is None else _said_of_end(job, printed=True)
                    yield WaitingRun(run, "", how, ended=True)
                elif job.status == "PENDING":
                    nodes = nodes or nodes_of(self.client)
                    reason = why(needs_of(_tag(run)), nodes)
                    yield WaitingRun(run, reason, f"Ray's job {_id(run)} waits: {reason}")
            except Exception as error:  # whatever Ray raises: nothing is known then
                message = f"Ray does not say whether its job waits: {first_line(str(error))}"
                yield WaitingRun(run, "silent", message)

    def end_jobs(self, runs: Sequence[dg.DagsterRun]) -> Iterable[str]:
        gone = list[str]()
        for run in runs:
            try:
                job = self._job(run)
                if job is None or job.status.is_terminal():
                    gone.append(run.run_id)
                    continue
                answered(partial(self.client.stop_job, _id(run)))
            except Exception as error:  # whatever Ray raises: it is tried again
                log.warning("cannot end what is left of run %s: %s", run.run_id, first_line(str(error)))
                continue
            if run.is_finished and newest(self._instance, run, ENDED) is None:
                said(run, self._instance, f"Its job {_id(run)} still lives, and is ended", {ENDED: _id(run)})
        return gone

    def _submit(self, run: dg.DagsterRun) -> None:
        """Submit the job of a run, where an answer that was lost did not say so before. A head that is away
        is asked again for a minute. Raises UserError, and OSError where it stays away.
        """
        if run.tags.get(TENANT, NOBODY) != NOBODY and not is_of_a_tenant(_tag(run)):
            raise UserError(
                "nothing says what the job of this run is: its log says why, or webserver or daemon, which "
                "submitted it, has no settings with `ray`",
                fix=f"Name the project where these run with {PROJECT_VARIABLE}, and start the run again",
            )
        found = environment_of(self._instance)
        self.env_vars = [f"{name}={value}" for name, value in found.items()]
        project = os.environ.get(PROJECT_VARIABLE)  # of jobs whose tag says nothing
        self.runtime_env = {"env_vars": {} if project is None else {PROJECT_VARIABLE: project}}
        end = time.monotonic() + AWAY_SECONDS
        while True:
            try:
                if self._job(run) is None:
                    answered(lambda: self._launch_ray_job(_id(run), _entrypoint(run), run))
                return
            except UserError:
                if self._job(run) is not None:  # it was made meanwhile: the answer to an earlier try was lost
                    return
                raise
            except (TypeError, ValueError) as error:
                fix = "See what Ray's runtime environment of a job may have"
                raise UserError(first_line(str(error)), field="ray.runtime_env", fix=fix) from None
            except OSError:
                if time.monotonic() > end:
                    raise
            time.sleep(5)

    def _job(self, run: dg.DagsterRun) -> Any:
        """Return what Ray knows of a run's job, None: nothing. Raises OSError, UserError."""
        try:
            return answered(lambda: self.client.get_job_info(_id(run)))
        except Unknown:
            return None


def _id(run: dg.DagsterRun) -> str:
    return get_job_submission_id_from_run_id(run.run_id)


def _tag(run: dg.DagsterRun) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(run.tags.get(CONFIG) or "{}")
    return job


def _entrypoint(run: dg.DagsterRun) -> str:
    """Return what a job carries out. On a node with GPUs Ray hides none from a job that asked for none; what
    hides them in its runtime environment would hide them from the programs that Ray places beside it.
    """
    _, told = command_of(run)
    return f"exec {shlex.join([*(() if _tag(run).get('num_gpus') else NO_GPU), *PYTHON, *told])}"


def _said_of_end(job: Any, *, printed: bool = False) -> str:
    """Say how a job ended; what it printed is in Ray's message of one that failed by itself."""
    message = str(job.message or "")
    how = message[-2000:] if printed else first_line(message)
    return f"Ray's job {job.submission_id} ended: {job.status.value}, {how}"
