"""Lets runs that should have a device first ask before a training does.

Who waits for a device is served by priority, then by arrival (launch.queue), but runs that begin together
come to their training within a moment of each other, and the first to ask would take a free device for all
of it. The highest priority goes first, and of equal ones the longest by its plan: were it last, the other
devices would idle beside it.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple

import dagster as dg

from ft_dagster.assets.failures import unreported
from ft_dagster.dagster_private import PRIORITY
from ft_dagster.stage_entries import TRAINING_PLAN

Order = tuple[int, float]  # priority, and hours by the plan: the greater goes first
HOURS = "hours to train and judge"
PATIENCE, PACE = 15.0, 0.25  # seconds
LEISURE = 10  # a pause is at least this many times as long as the look before it took
TO_ASK = 1.0  # seconds from the start of a step until its program stands in line
LIVE = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)


class _Step(NamedTuple):
    """Says when a step `began` and `ended`, in seconds since 1970, and the `hours` by the plan that it made;
    None of what it has not, or nobody knows.
    """

    began: float | None
    ended: float | None
    hours: float | None


def give_way(context: dg.AssetExecutionContext, say: Callable[[str], None]) -> None:
    """Return once each live run that goes first and makes this asset has asked, or after PATIENCE. Where
    Dagster's database is away nobody is waited for.
    """
    line, until, waits = _Line(context), time.monotonic() + PATIENCE, False
    try:
        while (began := time.monotonic()) < until and line.is_any_awaited():
            took = time.monotonic() - began
            if not waits:
                say(
                    f"waits up to {PATIENCE:.0f} s for a run that is about to train and goes first, by its "
                    "priority or as the longer one"
                )
            waits = True
            left = max(0.0, until - time.monotonic())
            time.sleep(min(max(PACE, LEISURE * took), left))
    except Exception as error:
        if not unreported(error):
            raise


@dataclass(frozen=True)
class _Line:
    """Holds the line before a device. `asked`: the ids of runs that must have, or go after this one;
    grows.
    """

    context: dg.AssetExecutionContext
    asked: set[str] = field(default_factory=set)

    @cached_property
    def step(self) -> str:
        return str(self.context.op_execution_context.op_handle.name)

    @cached_property
    def plan(self) -> str:
        return self.step.removesuffix(self.context.asset_key.path[-1]) + TRAINING_PLAN.name

    @cached_property
    def own(self) -> Order:
        plan = self.steps_of(self.context.run.run_id).get(self.plan)
        return _priority(self.context.run), math.inf if plan is None or plan.hours is None else plan.hours

    def steps_of(self, run_id: str) -> dict[str, _Step]:
        """Return the steps of a run by name."""
        steps = {}
        for each in self.context.instance.get_run_step_stats(run_id, [self.plan, self.step]):
            made = [event.asset_materialization for event in each.materialization_events or ()]
            values = [one.metadata[HOURS].value for one in made if one and HOURS in one.metadata]
            hours = float(str(values[-1])) if values else None
            steps[each.step_key] = _Step(each.start_time, each.end_time, hours)
        return steps

    def is_any_awaited(self) -> bool:
        # The last to ask before this one comes first: it gives way to the others.
        ahead = sorted(self._ahead(), key=itemgetter(0))
        return any(
            begun is None or time.time() - begun <= place * TO_ASK
            for place, (_, begun) in enumerate(ahead, start=1)
        )

    def _ahead(self) -> Iterator[tuple[Order, float | None]]:
        """Yield for each run that goes first its place and when its training's step began."""
        for other in self.context.instance.get_runs(dg.RunsFilter(statuses=list(LIVE))):
            if (
                other.run_id in {self.context.run.run_id, *self.asked}
                or _priority(other) < self.own[0]
                or not _makes(other, self.context, self.step)
            ):
                continue
            steps = self.steps_of(other.run_id)
            plan, training = steps.get(self.plan), steps.get(self.step)
            begun = training.began if training else None
            order = _priority(other), _planned_hours(plan)
            if _is_past(begun or (plan.ended if plan else None)):  # it has asked, or was killed before
                self.asked.add(other.run_id)
            elif order > self.own:
                yield order, begun
            elif plan is not None and plan.began is not None:
                self.asked.add(other.run_id)


def _is_past(moment: float | None) -> bool:
    """Say whether something was too long ago for what follows on it to be waited for."""
    return moment is not None and time.time() - moment > PATIENCE


def _planned_hours(plan: _Step | None) -> float:
    """Return the hours by the plan. Infinite while it is made: who is being planned asks within a moment, but
    for one that tries settings first (`plan.probe`).
    """
    if plan is None or plan.began is None:
        return 0.0
    if plan.ended is None:
        return 0.0 if _is_past(plan.began) else math.inf
    return plan.hours or 0.0


def _makes(other: dg.DagsterRun, context: dg.AssetExecutionContext, step: str) -> bool:
    """Say whether a run makes a step by its assets, where it names them: the UI's runs are of another job.
    One that is run again may leave steps out.
    """
    if other.step_keys_to_execute and step not in other.step_keys_to_execute:
        return False
    if other.asset_selection is None:
        return other.job_name == context.run.job_name
    return context.asset_key in other.asset_selection


def _priority(run: dg.DagsterRun) -> int:
    try:
        return int(run.tags.get(PRIORITY, "0"))
    except ValueError:
        return 0
