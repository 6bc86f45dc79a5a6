"""Launches each run as a job of Slurm, on a node that has what the run's variant declares.

The job runs what Dagster's other launchers run, `dagster api execute_run`, and inside it everything is local.
Dagster's run monitoring asks here whether a job lives.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from ft_dagster.automation.clusters.waiting import JOB, TellsWaiting, WaitingRun, fail_for_good, said
from ft_dagster.automation.clusters.watch import EndsJobs
from ft_dagster.automation.coordinator import own_assets
from ft_dagster.automation.slurm import commands as slurm
from ft_dagster.automation.slurm.jobs import JobsOfRuns, LivingJobs
from ft_dagster.automation.slurm.order import CONFIG, name_of, order_of, output_of
from ft_dagster.automation.slurm.waiting import waiting_in_slurm
from ft_dagster.dagster_private import (
    CheckRunHealthResult,
    ConfigurableClass,
    ConfigurableClassData,
    LaunchRunContext,
    RunLauncher,
    WorkerStatus,
)
from ft_dagster.errors import UserError

AWAY_SECONDS = 60.0  # in which a controller may come back before a run that is launched fails


class SlurmRunLauncher(RunLauncher, ConfigurableClass, TellsWaiting, EndsJobs):
    """Launches runs by `sbatch`, cancels by `scancel`, and says by `squeue` whether a run's job lives."""

    submitting_seconds = AWAY_SECONDS + 3 * slurm.PATIENCE

    def __init__(self, options: slurm.SlurmOptions, inst_data: ConfigurableClassData | None = None) -> None:
        self.options, self._inst_data = options, inst_data
        self._listed = LivingJobs()
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        return CONFIG

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> SlurmRunLauncher:
        return cls(slurm.SlurmOptions(**config_value), inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Submit a job, or fail the run in one line; Dagster runs it again, unless that mends nothing."""
        run, workspace = context.dagster_run, context.workspace
        own = None if workspace is None else own_assets(run, workspace)
        project = "" if own is None else own.project
        try:
            job = self._submitted(run, project)
        except UserError as error:
            fail_for_good(run, self._instance, error)
        except slurm.SlurmError as error:
            self._instance.report_run_failed(run, f"Slurm took no job of it: {error}")
        else:
            output = output_of(self._instance, run)
            said(run, self._instance, f"Submitted to Slurm as job {job}; it prints to {output}", {JOB: job})

    def _submitted(self, run: dg.DagsterRun, project: str) -> str:
        """Return the job of a run. A controller that is away is asked again for a minute."""
        end = time.monotonic() + AWAY_SECONDS
        while True:
            try:
                if jobs := slurm.jobs_of(name_of(run)):  # the answer to an earlier try was lost
                    return jobs[-1].id
                return slurm.submit(name_of(run), *order_of(self.options, self._instance, run, project))
            except slurm.SlurmError as error:
                if not error.silent or time.monotonic() > end:
                    raise
            time.sleep(5)

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        return run is not None and not run.is_finished and self._jobs().cancel(run)

    def end_jobs(self, runs: Sequence[dg.DagsterRun]) -> Iterable[str]:
        return self._jobs().end_left(runs)

    def _jobs(self) -> JobsOfRuns:
        return JobsOfRuns(self._instance, self.options.grace_seconds)

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return RUNNING of what Slurm does not tell: its jobs go on while its controller is away."""
        try:
            if name_of(run) in self._listed.names():
                return CheckRunHealthResult(WorkerStatus.RUNNING)
            jobs = slurm.jobs_of(name_of(run))
        except (slurm.SlurmError, UserError) as error:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"Slurm does not say: {error}")
        if any(job.state in slurm.LIVING for job in jobs):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if not jobs:
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "Slurm has no job of it any more")
        if jobs[-1].state == "COMPLETED":  # the run has said how it ended, or says it now
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
        return CheckRunHealthResult(WorkerStatus.FAILED, slurm.said_of_end(jobs[-1]))

    def get_run_worker_debug_info(
        self, run: dg.DagsterRun, include_container_logs: bool | None = True
    ) -> str | None:
        """Return the end of what a job printed, where this host sees it."""
        output = output_of(self._instance, run)
        return output.read_text("utf-8", "replace")[-2000:] if output.is_file() else None

    def waiting(self, runs: Sequence[dg.DagsterRun]) -> Iterable[WaitingRun]:
        return waiting_in_slurm(self._instance, runs)
