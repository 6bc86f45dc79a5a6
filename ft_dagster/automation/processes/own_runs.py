"""Tells the runs of a project from those of other projects on its instance."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import dagster as dg

from ft_dagster.automation.fleet_table import owner_of_instance
from ft_dagster.automation.tags import VARIANT, project_of, variant_in
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey

PAGE = 50  # runs that are read at once


def own_runs(instance: dg.DagsterInstance, settings: Settings) -> Callable[[dg.DagsterRun], bool]:
    """Return a function that says whether a run is of this project, or of no variant. Runs whose definitions
    name no project are of the one whose fleet the instance has; of anyone's before its first tick.
    """
    here = settings.project.resolve()

    @cache
    def unnamed_is_own() -> bool:
        owner = owner_of_instance(instance, settings)
        return owner is None or not owner.is_another(settings)

    def is_own(run: dg.DagsterRun) -> bool:
        if (folder := project_of(run.tags)) != "":
            return Path(folder).resolve() == here
        return variant_in(run.tags) is None or unnamed_is_own()

    return is_own


def newest_runs(
    instance: dg.DagsterInstance,
    settings: Settings,
    key: VariantKey,
    statuses: list[dg.DagsterRunStatus] | None = None,
) -> Iterator[dg.RunRecord]:
    """Yield the runs of a variant of this project, the newest first; of these statuses, where any are
    given.
    """
    filters = dg.RunsFilter(tags={VARIANT: str(key)}, statuses=statuses)
    is_own, cursor = own_runs(instance, settings), None
    while True:
        found = instance.get_run_records(filters, limit=PAGE, cursor=cursor)
        yield from (record for record in found if is_own(record.dagster_run))
        if len(found) < PAGE:
            return
        cursor = found[-1].dagster_run.run_id
