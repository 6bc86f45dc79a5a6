"""A training lets runs that should have a device before it ask first.

Who waits for a device is served by priority, then by arrival (launch.queue), but runs that begin together
come to their training within a moment of each other, and the first to ask would take a free device for all
of it. The highest priority goes first, and of equal ones the longest by its plan: were it last, the other
devices would idle beside it.
"""

import math
import time
from collections.abc import Callable, Mapping
from operator import itemgetter

import dagster as dg
from dagster._core.execution.stats import RunStepKeyStatsSnapshot
from dagster._core.storage.tags import PRIORITY_TAG

from ft_dagster.assets.failures import unreported

Steps = Mapping[str, RunStepKeyStatsSnapshot]  # of one run, by name
PLAN, HOURS = "training_plan", "hours"  # an asset, and a figure of its page
PATIENCE, PACE = 15.0, 0.25  # seconds
TO_ASK = 1.0  # seconds from the start of a step until its program stands in line
LIVE = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)


def give_way(context: dg.AssetExecutionContext, say: Callable[[str], None]) -> None:
    """Return once each live run that goes first and makes this asset has asked, or after PATIENCE. Where
    Dagster's database is away nobody is waited for.
    """
    until, asked, waits = time.monotonic() + PATIENCE, set[str](), False
    try:
        while time.monotonic() < until and _is_any_awaited(context, asked):
            if not waits:
                say(
                    f"waits up to {PATIENCE:.0f} s for a run that is about to train and goes first, by its "
                    "priority or as the longer one"
                )
            waits = True
            time.sleep(PACE)
    except Exception as error:
        if not unreported(error):
            raise


def _is_any_awaited(context: dg.AssetExecutionContext, asked: set[str]) -> bool:
    """`asked`: the ids of runs that must have, or go after this one; grows."""
    instance, run = context.instance, context.run
    step = context.op_execution_context.op_handle.name
    plan = step.removesuffix(context.asset_key.path[-1]) + PLAN

    def steps_of(run_id: str) -> Steps:
        return {each.step_key: each for each in instance.get_run_step_stats(run_id, [plan, step])}

    live = instance.get_runs(dg.RunsFilter(statuses=list(LIVE)))
    known = _hours(steps_of(run.run_id).get(plan))
    own = _priority(run), math.inf if known is None else known
    ahead: list[tuple[tuple[int, float], float | None]] = []
    for other in live:
        if (
            other.run_id in {run.run_id, *asked}
            or _priority(other) < own[0]
            or not _makes(other, context, step)
        ):
            continue
        steps = steps_of(other.run_id)
        begun, planned = (steps[each].start_time if each in steps else None for each in (step, plan))
        order = _priority(other), _foretold(steps.get(plan))
        if order > own and not _is_past(begun):
            ahead.append((order, begun))
        elif _is_past(begun) or planned is not None:
            asked.add(other.run_id)
    ahead.sort(key=itemgetter(0))  # the last to ask before this one comes first, and gives way to the others
    return any(
        begun is None or time.time() - begun <= place * TO_ASK
        for place, (_, begun) in enumerate(ahead, start=1)
    )


def _is_past(begun: float | None) -> bool:
    """Whether a step began too long ago to be waited for."""
    return begun is not None and time.time() - begun > PATIENCE


def _foretold(planned: RunStepKeyStatsSnapshot | None) -> float:
    """Hours by the plan. Infinite while it is made: who is being planned asks within a moment, but for one
    that tries settings first (`plan.probe`).
    """
    if planned is None or planned.start_time is None:
        return 0.0
    if planned.end_time is None:
        return 0.0 if _is_past(planned.start_time) else math.inf
    return _hours(planned) or 0.0


def _hours(planned: RunStepKeyStatsSnapshot | None) -> float | None:
    """None where no plan was made, or nobody knows."""
    events = planned.materialization_events if planned else ()
    made = [event.asset_materialization for event in events or ()]
    values = [each.metadata[HOURS].value for each in made if each and HOURS in each.metadata]
    return float(str(values[-1])) if values else None


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
