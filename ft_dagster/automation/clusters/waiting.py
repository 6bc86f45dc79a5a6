"""Watches the jobs of runs that have not begun: Dagster's run monitoring looks at runs that have."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import dagster as dg

from ft_dagster.dagster_private import EngineEventData, JobFailureData, RunFailureReason
from ft_dagster.errors import UserError

JOB, REASON, ENDED = "job", "waits_for", "asked_to_end"  # what lines in a run's log tell
STARTING = dg.DagsterRunStatus.STARTING


class Told(NamedTuple):
    """Holds what a line of a run's log tells, and when it did, in seconds since 1970."""

    value: str
    at: float
    line: str


class WaitingRun(NamedTuple):
    """Tells of a run that has not begun. `reason`: said once, as long as it is the same. `ended`: its job
    has, so the run never begins.
    """

    run: dg.DagsterRun
    reason: str
    message: str
    ended: bool = False


class TellsWaiting(ABC):
    """Is a run launcher that knows why jobs wait. `submitting_seconds`: the longest that a launch takes."""

    submitting_seconds: ClassVar[float]

    @abstractmethod
    def waiting(self, runs: Sequence[dg.DagsterRun]) -> Iterable[WaitingRun]:
        """Look at the jobs of runs; nothing is returned of one that is about to begin."""


def tell_waiting(instance: dg.DagsterInstance) -> None:
    """Say in the log of each run that has not begun why its job waits, once for each reason. A run whose job
    ended before it began fails, and Dagster runs it again. Nothing is done for runs of another launcher.
    """
    launcher = instance.run_launcher
    if not isinstance(launcher, TellsWaiting):
        return
    starting = instance.get_runs(dg.RunsFilter(statuses=[STARTING]))
    longest = launcher.submitting_seconds
    runs = [run for run in starting if not _is_being_submitted(instance, run, longest)]
    for run, reason, message, ended in launcher.waiting(runs) if runs else ():
        if not ended:
            told = newest(instance, run, REASON)
            if told is None or told.value != reason:
                said(run, instance, message, {REASON: reason})
            continue
        now = instance.get_run_by_id(run.run_id)
        if now is not None and now.status == STARTING:
            instance.report_run_failed(now, f"Its job ended before the run began. {message}")


def _is_being_submitted(instance: dg.DagsterInstance, run: dg.DagsterRun, longest: float) -> bool:
    """Say whether a run's log names no job, because a daemon may be submitting it now; one that was killed
    while it did is not.
    """
    if newest(instance, run, JOB) is not None:
        return False
    launched = instance.get_run_stats(run.run_id).launch_time
    return launched is None or time.time() - launched < longest


def said(run: dg.DagsterRun, instance: dg.DagsterInstance, message: str, told: Mapping[str, str]) -> None:
    """Say something of a run's job in the run's log. `told`: what a later look finds again."""
    data = EngineEventData({name: dg.MetadataValue.text(value) for name, value in told.items()})
    instance.report_engine_event(message, run, data)


def fail_for_good(run: dg.DagsterRun, instance: dg.DagsterInstance, error: UserError) -> None:
    """Fail a run in one line. Dagster does not run it again, which would mend nothing."""
    hopeless = JobFailureData(error=None, failure_reason=RunFailureReason.STEP_FAILURE)
    instance.report_run_failed(run, str(error), hopeless)


def newest(instance: dg.DagsterInstance, run: dg.DagsterRun, name: str) -> Told | None:
    """Return what the newest line of a run's log tells under a name."""
    for entry in reversed(instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)):
        if entry.dagster_event is None:
            continue
        told = entry.dagster_event.engine_event_data.metadata
        if name in told:
            return Told(str(told[name].value), entry.timestamp, entry.dagster_event.message or "")
    return None


def why_job_waits(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """Return what a run's log says last of why its job waits; "" where it says nothing."""
    told = newest(instance, run, REASON)
    return "" if told is None else told.line
