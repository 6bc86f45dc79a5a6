"""Run tags: who a run is for and why it runs, on every path by which a run can start."""

from collections.abc import Mapping

import dagster as dg

from ft_dagster.assets.partitions import VARIANT_TAG
from ft_dagster.dagster_private import (
    AUTOMATED,
    BACKFILL,
    PARENT_RUN,
    PARTITION,
    PRIORITY,
    RANGE_END,
    RANGE_START,
    RUN_KEY,
    SCHEDULE,
    SENSOR,
)
from ft_dagster.errors import UserError
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declarations, VariantKey

TENANT, VARIANT, REASON, DUE = "ft/tenant", VARIANT_TAG, "ft/reason", "ft/due"
# With the folder of its project before it, "" where the definitions name none: an instance may have several.
PROJECT_TENANT, PROJECT_VARIANT = "ft/project_tenant", "ft/project_variant"
CHARGES = "ft/charges"  # of a run that a budget was asked for
STARTED_BY = {
    SCHEDULE: "schedule",
    SENSOR: "sensor",
    BACKFILL: "backfill",
    AUTOMATED: "automation",
    PARENT_RUN: "re-execution",
}
NOBODY = "none"  # in place of a tenant or variant that a run without one claims


def variant_tags(key: VariantKey, reason: str) -> dict[str, str]:
    return {TENANT: key.tenant, VARIANT: str(key), REASON: reason}


def changed_tags(run: dg.DagsterRun, project: str = "") -> dict[str, str]:
    """Return what a submitted run's tags must become: tenant, variant and priority are those of its partition
    (without one, nobody's), whatever its submitter wrote; a reason that it gave stays.

    `project`: the folder that its assets are of; "" where the environment says it.
    """
    try:
        key = VariantKey.parse(_partition(run))
    except UserError:
        unranked = {PRIORITY: "0"} if run.tags.get(PRIORITY, "0") != "0" else {}
        return disowned_tags(run) | unranked
    wanted = {TENANT: key.tenant, VARIANT: str(key), PRIORITY: _priority(key, project)}
    wanted |= {} if REASON in run.tags else {REASON: _reason(run)}
    wanted |= {PROJECT_TENANT: f"{project}:{key.tenant}", PROJECT_VARIANT: f"{project}:{key}"}
    return {name: value for name, value in wanted.items() if run.tags.get(name) != value}


def variant_in(tags: Mapping[str, str]) -> VariantKey | None:
    """Return the variant that the tags of a run name, as `changed_tags` made them; None: of none."""
    named = tags.get(VARIANT, NOBODY)
    return None if named == NOBODY else VariantKey.parse(named)


def project_of(tags: Mapping[str, str]) -> str:
    """Return the folder of the project that a run is of, by its tags; "" where its definitions name none."""
    named = tags.get(PROJECT_VARIANT, NOBODY)
    return "" if named == NOBODY else named.removesuffix(f":{tags.get(VARIANT, NOBODY)}")


def disowned_tags(run: dg.DagsterRun) -> dict[str, str]:
    """Return the tags of a run that is of no variant: the tenant and variant that its tags claim become
    nobody's.
    """
    claimed = (TENANT, VARIANT, PROJECT_TENANT, PROJECT_VARIANT)
    return {name: NOBODY for name in claimed if run.tags.get(name, NOBODY) != NOBODY}


def unasked_tags(run: dg.DagsterRun) -> dict[str, str]:
    """Return the tags of a run that no sensor asked for: what only a sensor may say becomes nothing's,
    whoever copied it. It is charged to no budget, and no retrain or request of a sensor counts as asked for
    by it.
    """
    said = (CHARGES, DUE, RUN_KEY)
    return {name: NOBODY for name in said if run.tags.get(name, NOBODY) != NOBODY}


def _partition(run: dg.DagsterRun) -> str:
    """Return the one partition that a run will work on, as Dagster finds it: of several dimensions, else the
    plain tag, else the range that the UI's single run over partitions states.
    """
    dimensions = [value for name, value in sorted(run.tags.items()) if name.startswith(f"{PARTITION}/")]
    if dimensions:
        return "|".join(dimensions)
    start, end = run.tags.get(RANGE_START, ""), run.tags.get(RANGE_END)
    return run.tags.get(PARTITION, start if start == end else "")


def _reason(run: dg.DagsterRun) -> str:
    return next((reason for tag, reason in STARTED_BY.items() if tag in run.tags), "ui")


def _priority(key: VariantKey, project: str) -> str:
    """Return the declared priority; 0 where the declaration cannot be read now: it fails later, in its own
    run.
    """
    try:
        declared = Declarations(load_settings(project or None).project).declared(key)
    except UserError:
        return "0"
    return str(declared.spec.resources.priority)
