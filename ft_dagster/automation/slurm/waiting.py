"""Watches jobs of Slurm that have not begun: Dagster's run monitoring looks at runs that have."""

import time

import dagster as dg

from ft_dagster.automation.slurm.order import name_of
from ft_dagster.automation.slurm.run_log import JOB, REASON, newest, said
from ft_dagster.errors import UserError
from ft_dagster.launch import slurm

AWAY_SECONDS = 60.0  # in which a controller may come back before a run that is launched fails
SUBMITTING_SECONDS = AWAY_SECONDS + 3 * slurm.PATIENCE  # the longest that a launch takes
STARTING = dg.DagsterRunStatus.STARTING


def tell_waiting(instance: dg.DagsterInstance) -> None:
    """Say in the log of each run that has not begun why its job waits, once for each reason. A run whose job
    ended before it began fails, and Dagster runs it again.
    """
    begun = instance.get_runs(dg.RunsFilter(statuses=[STARTING]))
    runs = [run for run in begun if not _is_being_submitted(instance, run)]
    try:
        jobs = slurm.jobs_of(*map(name_of, runs)) if runs else []
    except (slurm.SlurmError, UserError) as error:
        for run in runs:
            _say_once(instance, run, f"Slurm does not say whether its job waits: {error}", "silent")
        return
    for run in runs:
        _look(instance, run, [job for job in jobs if job.name == name_of(run)])


def _is_being_submitted(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Say whether a run's log names no job, because a daemon may be submitting it now; one that was killed
    while it did is not.
    """
    if newest(instance, run, JOB) is not None:
        return False
    launched = instance.get_run_stats(run.run_id).launch_time
    return launched is None or time.time() - launched < SUBMITTING_SECONDS


def _look(instance: dg.DagsterInstance, run: dg.DagsterRun, jobs: list[slurm.SlurmJob]) -> None:
    waiting = [job for job in jobs if job.state in slurm.WAITING]
    if waiting:
        (job, *_) = waiting
        message = f"Slurm's job {job.id} waits: {job.reason}. {slurm.way_out(job)}"
        _say_once(instance, run, message, job.reason)
    elif not any(job.state in slurm.LIVING for job in jobs):
        now = instance.get_run_by_id(run.run_id)
        if now is not None and now.status == STARTING:
            how = slurm.said_of_end(jobs[-1]) if jobs else "Slurm has no job of it any more"
            printed = instance.run_launcher.get_run_worker_debug_info(run) or ""
            instance.report_run_failed(now, f"Its job ended before the run began. {how}\n{printed}".strip())


def _say_once(instance: dg.DagsterInstance, run: dg.DagsterRun, message: str, reason: str) -> None:
    told = newest(instance, run, REASON)
    if told is None or told.value != reason:
        said(run, instance, message, {REASON: reason})
