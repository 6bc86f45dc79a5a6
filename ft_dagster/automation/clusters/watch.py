"""Watches what a cluster has of runs at which Dagster's run monitoring does not look: runs that have not
begun, and jobs that live on after their run was cancelled, as where the cluster did not answer, or was failed
by Dagster, as where it took too long to start.

The run coordinator starts the watch in Dagster's daemon, when that looks at its queue.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from ft_dagster.automation.clusters.waiting import TellsWaiting, tell_waiting

LOOK_SECONDS = 20.0  # between two looks
LATELY = timedelta(days=1)  # since its end, for which a run's job is looked for
# After a run's end, when no job of it is made any more, and one that was to end with it has.
SETTLED = timedelta(minutes=10)
CANCELING, CANCELED = dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED
FAILURE = dg.DagsterRunStatus.FAILURE
log = logging.getLogger(__name__)


class EndsJobs(ABC):
    """Is a run launcher whose jobs may outlive their runs: its cluster is not always there to end them."""

    _jobless: frozenset[str] = frozenset()  # runs that have ended, and of which no job can live

    @abstractmethod
    def end_jobs(self, runs: Sequence[dg.DagsterRun]) -> Iterable[str]:
        """End the jobs that live of these runs, which are not to have any; return the ids of the runs that
        have none.
        """

    def end_left(self, instance: dg.DagsterInstance) -> None:
        """End what is left of runs that were cancelled or failed within a day."""
        now = datetime.now(UTC)
        recent = _runs(instance, [CANCELED], updated_after=now - SETTLED)
        ended, since = [CANCELED, FAILURE], now - LATELY
        settled = _runs(instance, ended, updated_after=since, updated_before=now - SETTLED)
        old = frozenset(run.run_id for run in settled)
        unsure = [run for run in settled if run.run_id not in self._jobless]
        runs = [*_runs(instance, [CANCELING]), *recent, *unsure]
        gone = self.end_jobs(runs) if runs else ()
        self._jobless = old & self._jobless.union(gone)


def look(instance: dg.DagsterInstance) -> None:
    """Look once at runs that have not begun, and at jobs that outlive their runs."""
    tell_waiting(instance)
    launcher = instance.run_launcher
    if isinstance(launcher, EndsJobs):
        launcher.end_left(instance)


class Watch:
    """Has a thread look at runs, until it is ended. Of a launcher whose runs are on its host it has none."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._ended = threading.Event()
        if isinstance(instance.run_launcher, TellsWaiting | EndsJobs):
            threading.Thread(target=self._look, args=[instance], name="run-watch", daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def _look(self, instance: dg.DagsterInstance) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                look(instance)
            except Exception as error:  # of the database, too: it is looked again
                if not self._ended.is_set():
                    log.warning("cannot look at runs that wait or were cancelled: %s", error)


def _runs(
    instance: dg.DagsterInstance, statuses: list[dg.DagsterRunStatus], **filters: Any
) -> Sequence[dg.DagsterRun]:
    return instance.get_runs(dg.RunsFilter(statuses=statuses, **filters))
