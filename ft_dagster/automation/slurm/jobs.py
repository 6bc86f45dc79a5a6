"""Sees which jobs of runs live, and ends them; says so in the runs' logs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dagster as dg

from ft_dagster.automation.clusters.waiting import ENDED, newest, said
from ft_dagster.automation.slurm import commands as slurm
from ft_dagster.automation.slurm.order import name_of
from ft_dagster.errors import UserError

LISTED_SECONDS = 10.0  # for which one list of all jobs answers for each run that is in it
log = logging.getLogger(__name__)


class LivingJobs:
    """Lists the jobs that lived moments ago: Dagster's monitoring asks of each run, and Slurm's controller,
    which has other users, is asked once for all.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self._found: frozenset[str] | slurm.SlurmError = frozenset()

    def names(self) -> frozenset[str]:
        """Return the names of jobs. Raises SlurmError, UserError."""
        if time.monotonic() > self._until:
            try:
                self._found = frozenset(job.name for job in slurm.jobs_of() if job.state in slurm.LIVING)
            except slurm.SlurmError as error:
                self._found = error
            self._until = time.monotonic() + LISTED_SECONDS
        if isinstance(self._found, slurm.SlurmError):
            raise self._found
        return self._found


@dataclass(frozen=True)
class JobsOfRuns:
    """Ends the jobs of an instance's runs."""

    instance: dg.DagsterInstance
    grace_seconds: int

    def cancel(self, run: dg.DagsterRun) -> bool:
        """End a run's job; one that has begun is interrupted, as a run on one host is. A run is left as it is
        where Slurm does not answer: it would count as cancelled and train on.
        """
        try:
            jobs = [job for job in slurm.jobs_of(name_of(run)) if job.state in slurm.LIVING]
        except (slurm.SlurmError, UserError) as error:
            message = f"Not cancelled: Slurm does not answer. Cancel it again. {error}"
            said(run, self.instance, message, {})
            return False
        self._tell_end(run, jobs)
        self.instance.report_run_canceling(run)
        ended = self._end(run, jobs)
        if ended and all(job.state in slurm.WAITING for job in jobs):  # no process of it can say so
            self.instance.report_run_canceled(run)
        return True

    def end_left(self, runs: Sequence[dg.DagsterRun]) -> Iterable[str]:
        """End jobs that nobody has ended, and again those that outlived their end; return the ids of the
        runs that have none.
        """
        try:
            jobs = slurm.jobs_of(*map(name_of, runs))
        except (slurm.SlurmError, UserError) as error:
            log.warning("cannot see whether jobs of cancelled runs live: %s", error)
            return ()
        living: dict[str, list[slurm.SlurmJob]] = {}
        for job in jobs:
            if job.state in slurm.LIVING:
                living.setdefault(job.name, []).append(job)
        for run in runs:
            left = [job for job in living.get(name_of(run), ()) if job.state != "COMPLETING"]
            if left and not self._is_ending(run) and self._end(run, left):
                self._tell_end(run, left)
        return [run.run_id for run in runs if name_of(run) not in living]

    def _end(self, run: dg.DagsterRun, jobs: Sequence[slurm.SlurmJob]) -> bool:
        try:
            slurm.end(jobs, self.grace_seconds)
        except (slurm.SlurmError, UserError) as error:
            if self._is_ending(run):  # else that is said already
                message = f"Its job could not be ended, which is tried until it is: {error}"
                said(run, self.instance, message, {ENDED: ""})
            return False
        return True

    def _tell_end(self, run: dg.DagsterRun, jobs: Sequence[slurm.SlurmJob]) -> None:
        if jobs:
            ids = ", ".join(job.id for job in jobs)
            said(run, self.instance, f"Ending its job {ids} of Slurm", {ENDED: ids})

    def _is_ending(self, run: dg.DagsterRun) -> bool:
        """Say whether Slurm was asked to end a run's job, and may take until now to do so."""
        told = newest(self.instance, run, ENDED)
        if told is None or not told.value:
            return False
        return time.time() - told.at < 2 * self.grace_seconds + 60
