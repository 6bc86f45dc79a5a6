"""Tells what runs do now and how far they are, or what they wait for, as `run`, `status` and the fleet page
show it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import NamedTuple

import dagster as dg

from ft_dagster.automation.processes.instance import current_step, said_of_step
from ft_dagster.automation.processes.own_runs import own_runs
from ft_dagster.automation.processes.unfinished import IN_PROGRESS, WAITING, in_progress, waits_for
from ft_dagster.automation.running import program_now
from ft_dagster.automation.tags import VARIANT
from ft_dagster.errors import UserError
from ft_dagster.program import Progress
from ft_dagster.report.sentences.progress import bar, in_words
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey

NOT_BEGUN = [*WAITING, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]


class RunActivity(NamedTuple):
    """Holds which asset a run makes, `since` when (seconds since 1970), how far its program is, and what the
    run waits for or said last.
    """

    asset: str = ""
    since: float = 0.0
    progress: Progress = Progress()
    said: str = ""

    @property
    def words(self) -> str:
        """Return how far it is, or what it waits for, in a sentence of a log."""
        return in_words(self.progress) or self.said


def activity_of(
    instance: dg.DagsterInstance, settings: Settings, run: dg.DagsterRun, going: Sequence[dg.DagsterRun]
) -> RunActivity:
    """Return what a run does now. `going`: see `in_progress`."""
    if run.status in NOT_BEGUN:
        return RunActivity(said=waits_for(instance, run, going))
    asset, since = current_step(instance, run.run_id)
    progress = Progress()
    with suppress(UserError):  # of no variant
        stage, progress = program_now(settings, VariantKey.parse(run.tags.get(VARIANT, "")), since)
        asset = stage or asset  # a step that is tried again began before others
    said = "" if bar(progress) or run.is_finished else said_of_step(instance, run.run_id)
    return RunActivity(asset, since, progress, said)


def activities(
    instance: dg.DagsterInstance, settings: Settings, variants: Collection[str]
) -> dict[str, RunActivity]:
    """Return what these variants' unfinished runs do now, by variant; of several, the oldest."""
    going, found = in_progress(instance), _oldest(instance, settings, [*WAITING, *IN_PROGRESS])
    named = {name: run for name, run in found.items() if name in variants}
    return {name: activity_of(instance, settings, run, going) for name, run in named.items()}


def waiting_runs(instance: dg.DagsterInstance, settings: Settings) -> dict[str, str]:
    """Return why runs wait that have not begun, by variant."""
    going, found = in_progress(instance), _oldest(instance, settings, NOT_BEGUN)
    return {name: waits_for(instance, run, going) for name, run in found.items()}


def _oldest(
    instance: dg.DagsterInstance, settings: Settings, statuses: Sequence[dg.DagsterRunStatus]
) -> dict[str, dg.DagsterRun]:
    runs = instance.get_runs(dg.RunsFilter(statuses=statuses))  # the newest first
    own = filter(own_runs(instance, settings), runs)
    return {run.tags.get(VARIANT) or run.job_name: run for run in own}
