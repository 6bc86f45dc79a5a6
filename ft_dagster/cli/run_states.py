"""Shows how far runs are while `ft-dagster run` waits for them: a live table in a terminal, else lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ft_dagster.cli.common import escape
from ft_dagster.errors import in_one_line

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun

    from ft_dagster.automation.processes.instance import Launched
    from ft_dagster.settings import Settings

POLL_SECONDS, LONGEST_SECONDS = 1.0, 10.0  # between two looks at runs
MOST_SILENT = 30.0  # seconds between two lines about a run in progress, where no terminal shows a table
COLUMNS = ("variant", "run", "state", "asset", "progress")
QUEUED, STARTING, STARTED = "queued", "starting", "started"


class RunState(NamedTuple):
    """Shows how far a run is. `progress`: of its program, or what it waits for; `words`: the same in a
    sentence of a log. `failed`: which step of a run in progress did, and why.
    """

    variant: str
    run: str
    state: str
    asset: str
    progress: str
    words: str
    failed: str = ""


def looked_at(instance: DagsterInstance, settings: Settings, runs: Sequence[Launched]) -> dict[str, RunState]:
    """Return how far each run is now, by its id; one that is gone counts as cancelled."""
    from ft_dagster.automation.processes.unfinished import in_progress

    known = {run.run_id: instance.get_run_by_id(run.run_id) for run in runs}
    queued = any(run is not None and run.status.value.lower() == QUEUED for run in known.values())
    going = in_progress(instance) if queued else []
    return {run.run_id: _state(instance, settings, run, known[run.run_id], going) for run in runs}


def _state(
    instance: DagsterInstance,
    settings: Settings,
    launched: Launched,
    run: DagsterRun | None,
    going: Sequence[DagsterRun],
) -> RunState:
    from ft_dagster.automation.processes.activity import activity_of
    from ft_dagster.automation.processes.instance import failed_step
    from ft_dagster.report.sentences.progress import bar

    variant, number = str(launched.key), launched.run_id[:8]
    if run is None:
        return RunState(variant, number, "canceled", "", "", "")
    state, now = run.status.value.lower(), activity_of(instance, settings, run, going)
    if run.is_finished:
        return RunState(variant, number, state, now.asset, "", "")
    failed = failed_step(instance, run.run_id) or "" if state == STARTED else ""
    return RunState(variant, number, state, now.asset, bar(now.progress) or now.said, now.words, failed)


@contextmanager
def shown_on(screen: Console, *, lines: bool) -> Iterator[Callable[[Sequence[RunState]], None]]:
    """Yield what shows states on a screen, whenever it is called: lines where they are asked for, or where
    the screen is no terminal.
    """
    if lines or not screen.is_terminal:
        yield StateLines(screen)
        return
    with Live(console=screen, refresh_per_second=2, transient=True) as live:
        yield lambda states: live.update(_table(states))


def _table(states: Sequence[RunState]) -> Table:
    table = Table(*COLUMNS, expand=True)
    for column in table.columns:
        column.overflow = "fold"
    for each in states:
        table.add_row(each.variant, each.run, each.state, each.asset, escape(each.progress))
        if each.failed:
            table.add_row("", "", "failed", "", escape(each.failed))
    return table


class StateLines:
    """Prints a line whenever a run comes to another asset or a step of it fails. Of a run that has not ended
    it prints one at least every MOST_SILENT seconds, while two looks are no more than LONGEST_SECONDS apart;
    of many that are queued, one line for all.
    """

    def __init__(self, screen: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen, self._clock = screen, clock
        self._said: dict[str, tuple[tuple[str, str], float]] = {}
        self._failed: set[str] = set()

    def __call__(self, states: Sequence[RunState]) -> None:
        now, queued = self._clock(), [each for each in states if each.state == QUEUED]
        for each in states:
            if each.failed and each.run not in self._failed:
                self._failed.add(each.run)
                self._print(f"{each.variant} failed: {in_one_line(each.failed)}")
            at, (before, when) = (each.state, each.asset), self._said.get(each.run, (None, 0.0))
            if at != before:
                self._say(each, now)
            elif each.state in _GOING and now - when >= MOST_SILENT - LONGEST_SECONDS:
                if each.state != QUEUED:
                    self._say(each, now)
                elif each is queued[0]:
                    more = f" (and {len(queued) - 1:,} more are queued)" if queued[1:] else ""
                    self._say(each, now, more)

    def _say(self, each: RunState, now: float, more: str = "") -> None:
        self._said[each.run] = ((each.state, each.asset), now)
        state = "" if each.state == STARTED and each.asset else each.state
        where = " ".join(filter(None, (each.variant, state, each.asset)))
        self._print(f"{where}: {in_one_line(each.words)}{more}" if each.words else f"{where}{more}")

    def _print(self, line: str) -> None:
        said = f"{time.strftime('%H:%M:%S')} {line}"
        self._screen.print(said, markup=False, highlight=False, soft_wrap=True)


_GOING = frozenset((QUEUED, STARTING, STARTED, "canceling"))
