"""Says why jobs of Slurm wait, and how those ended that never began."""

from collections.abc import Iterator, Sequence

import dagster as dg

from ft_dagster.automation.clusters.waiting import WaitingRun
from ft_dagster.automation.slurm import commands as slurm
from ft_dagster.automation.slurm.order import name_of
from ft_dagster.errors import UserError


def waiting_in_slurm(instance: dg.DagsterInstance, runs: Sequence[dg.DagsterRun]) -> Iterator[WaitingRun]:
    """Look at the jobs of runs that have not begun."""
    try:
        jobs = slurm.jobs_of(*map(name_of, runs))
    except (slurm.SlurmError, UserError) as error:
        message = f"Slurm does not say whether its job waits: {error}"
        yield from (WaitingRun(run, "silent", message) for run in runs)
        return
    for run in runs:
        own = [job for job in jobs if job.name == name_of(run)]
        if waiting := [job for job in own if job.state in slurm.WAITING]:
            (job, *_) = waiting
            message = f"Slurm's job {job.id} waits: {job.reason}. {slurm.way_out(job)}"
            yield WaitingRun(run, job.reason, message)
        elif not any(job.state in slurm.LIVING for job in own):
            how = slurm.said_of_end(own[-1]) if own else "Slurm has no job of it any more"
            printed = instance.run_launcher.get_run_worker_debug_info(run) or ""
            yield WaitingRun(run, "", f"{how}\n{printed}".strip(), ended=True)
