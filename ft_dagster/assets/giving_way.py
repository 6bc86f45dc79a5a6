"""A training lets runs of a higher priority that are about to train ask for devices first.

Who waits for a device is served by priority (launch.queue), but runs that begin together come to their
training within a moment of each other, and the first to ask would take a free device for all of it. The
highest goes first; of several that wait for it the order is as they ask.
"""

import time
from collections.abc import Callable

import dagster as dg
from dagster._core.storage.tags import PRIORITY_TAG

from ft_dagster.assets.failures import unreported

PATIENCE, PACE = 15.0, 0.25  # seconds
TO_ASK = 1.0  # seconds from the start of a step until its program stands in line
LIVE = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)


def give_way(context: dg.AssetExecutionContext, say: Callable[[str], None]) -> None:
    """Return once each live run with a higher priority that makes this asset has asked, or after PATIENCE.
    Where Dagster's database is away nobody is waited for.
    """
    until, asked, waits = time.monotonic() + PATIENCE, set[str](), False
    try:
        while time.monotonic() < until and _is_any_awaited(context, asked):
            if not waits:
                say(f"waits up to {PATIENCE:.0f} s for a run of a higher priority, which is about to train")
            waits = True
            time.sleep(PACE)
    except Exception as error:
        if not unreported(error):
            raise


def _is_any_awaited(context: dg.AssetExecutionContext, asked: set[str]) -> bool:
    """`asked`: the ids of runs that are known to have; grows."""
    run, step = context.run, context.op_execution_context.op_handle.name
    live = context.instance.get_runs(dg.RunsFilter(statuses=list(LIVE)))
    for other in live:
        higher = _priority(other) > _priority(run) and other.run_id not in asked
        if not higher or not _makes(other, context, step):
            continue
        begun = [each.start_time for each in context.instance.get_run_step_stats(other.run_id, [step])]
        if not any(at is not None and time.time() - at > TO_ASK for at in begun):
            return True
        asked.add(other.run_id)
    return False


def _makes(other: dg.DagsterRun, context: dg.AssetExecutionContext, step: str) -> bool:
    """By its assets, where it names them: the UI's runs are of another job. One that is run again may leave
    steps out.
    """
    if other.step_keys_to_execute and step not in other.step_keys_to_execute:
        return False
    if other.asset_selection is None:
        return other.job_name == context.run.job_name
    return context.asset_key in other.asset_selection


def _priority(run: dg.DagsterRun) -> int:
    try:
        return int(run.tags.get(PRIORITY_TAG, "0"))
    except ValueError:
        return 0
