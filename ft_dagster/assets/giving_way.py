"""A training lets runs of a higher priority that are about to train ask for devices first.

Who waits for a device is served by priority (launch.queue), but runs that begin together come to their
training within a moment of each other, and the first to ask would take a free device for all of it.
"""

import time
from contextlib import suppress

import dagster as dg
import sqlalchemy as sa

PATIENCE, PACE = 15.0, 0.25  # seconds
TO_ASK = 1.0  # seconds from the start of a step until its program stands in line
PRIORITY = "dagster/priority"
LIVE = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)


def give_way(context: dg.AssetExecutionContext) -> None:
    """Return once no live run of this job with a higher priority is before this step, or after PATIENCE.
    Where Dagster's database is away nobody is waited for.
    """
    instance, run, step = context.instance, context.run, context.op_execution_context.op_handle.name
    until, waited = time.monotonic() + PATIENCE, False
    with suppress(sa.exc.OperationalError, sa.exc.InterfaceError):
        while time.monotonic() < until and _is_awaited(instance, run, step):
            waited = True
            time.sleep(PACE)
    if waited:
        time.sleep(TO_ASK)


def _is_awaited(instance: dg.DagsterInstance, run: dg.DagsterRun, step: str) -> bool:
    live = instance.get_runs(dg.RunsFilter(job_name=run.job_name, statuses=list(LIVE)))
    higher = (each for each in live if _priority(each) > _priority(run))
    return any(not instance.get_run_step_stats(each.run_id, [step]) for each in higher)


def _priority(run: dg.DagsterRun) -> int:
    said = run.tags.get(PRIORITY, "0")
    return int(said) if said.lstrip("-").isdigit() else 0
