"""Run tags: who a run is for and why it runs, on every path by which a run can start."""

import dagster as dg

from ft_dagster.errors import UserError
from ft_dagster.settings import load_settings
from ft_dagster.spec import Declarations, VariantKey

TENANT, VARIANT, REASON, DUE = "ft/tenant", "ft/variant", "ft/reason", "ft/due"
PARTITION, PRIORITY = "dagster/partition", "dagster/priority"
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
STARTED_BY = {
    "dagster/schedule_name": "schedule",
    "dagster/sensor_name": "sensor",
    "dagster/backfill": "backfill",
    "dagster/auto_materialize": "automation",
    "dagster/parent_run_id": "re-execution",
}


def variant_tags(key: VariantKey, reason: str) -> dict[str, str]:
    return {TENANT: key.tenant, VARIANT: str(key), REASON: reason}


def missing_tags(run: dg.DagsterRun) -> dict[str, str]:
    """The tags that a submitted run of one variant lacks; none for other runs."""
    try:
        key = VariantKey.parse(_partition(run))
    except UserError:
        return {}
    wanted = variant_tags(key, _reason(run)) | _priority(key)
    return {name: value for name, value in wanted.items() if name not in run.tags}


def _partition(run: dg.DagsterRun) -> str:
    """The one partition of a run, which the UI's single run over partitions states as a range."""
    start, end = run.tags.get(RANGE_START, ""), run.tags.get(RANGE_END)
    return run.tags.get(PARTITION, start if start == end else "")


def _reason(run: dg.DagsterRun) -> str:
    return next((reason for tag, reason in STARTED_BY.items() if tag in run.tags), "ui")


def _priority(key: VariantKey) -> dict[str, str]:
    """The declared priority; a declaration that cannot be read now fails later, in its own run."""
    try:
        declared = Declarations(load_settings().project).declared(key)
        return {PRIORITY: str(declared.spec.resources.priority)}
    except UserError:
        return {}
