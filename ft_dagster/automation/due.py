"""Which variants are due: by the clock, one run per cron time; by their parent, one per new release of it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
from cronsim import CronSim

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.automation.jobs import variant_chain
from ft_dagster.automation.tags import DUE, VARIANT, variant_tags
from ft_dagster.data.derived import newer_parent
from ft_dagster.errors import UserError
from ft_dagster.resources.tenants import Tenants
from ft_dagster.spec import Declared, VariantKey
from ft_dagster.spec.variant import RetrainSpec
from ft_dagster.store import Store, read_head

CATCH_UP = timedelta(hours=1)  # a daemon that was down this long asks for what it missed


def last_due(retrain: RetrainSpec, now: datetime) -> datetime | None:
    """The latest time at or before `now`, within CATCH_UP, at which the declared cron fires; in UTC."""
    if retrain.cron is None:
        return None
    zone = ZoneInfo(retrain.timezone)
    backwards = CronSim(retrain.cron, (now + timedelta(seconds=1)).astimezone(zone), reverse=True)
    latest = next(backwards, None)
    if latest is None or now - latest > CATCH_UP:
        return None
    return latest.astimezone(UTC)


def new_parent(declared: Declared, store: Store) -> tuple[VariantKey, int] | None:
    """(parent, version) where the declared parent released another model than the variant last started from.

    Only for a variant that has started from this parent before: its first run is for a person to ask for.
    """
    base = read_head(store, declared.key.prefix, "base_model")
    newer = newer_parent(store, declared.key, base)
    return newer if newer and str(newer[0]) == declared.spec.base_model.variant else None


def _reasons(declared: Declared, store: Store, now: datetime) -> dict[str, str]:
    """Stamp (asked for once) -> reason, of what makes the variant due."""
    reasons = {}
    due = last_due(declared.spec.retrain, now)
    if due is not None:
        reasons[due.strftime("%Y-%m-%dT%H.%MZ")] = "schedule"
    newer = new_parent(declared, store)
    if newer is not None:
        parent, version = newer
        reasons[f"{parent}-v{version}"] = f"parent {parent} v{version}"
    return reasons


@dg.schedule(
    job=variant_chain,
    cron_schedule="* * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Asks for a run of each variant whose declared cron has come, or whose parent was released",
)
def due_variants(
    context: dg.ScheduleEvaluationContext, tenants: dg.ResourceParam[Tenants]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    now = context.scheduled_execution_time
    store = tenants.settings().open_store()
    known = set(context.instance.get_dynamic_partitions(PARTITIONS))
    asked = 0
    declarations = tenants.declarations()
    for key in declarations:
        if str(key) not in known:
            continue
        try:
            reasons = _reasons(declarations.declared(key), store, now)
        except UserError as error:
            context.log.error(str(error))
            continue
        for stamp, reason in reasons.items():
            filters = dg.RunsFilter(tags={VARIANT: str(key), DUE: stamp})
            if context.instance.get_runs_count(filters) == 0:
                asked += 1
                yield dg.RunRequest(
                    run_key=f"{key}@{stamp}",
                    partition_key=str(key),
                    tags=variant_tags(key, reason) | {DUE: stamp},
                )
    if asked == 0:
        yield dg.SkipReason("no variant is due")
