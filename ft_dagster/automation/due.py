"""Which variants a clock makes due: one schedule asks for one run per variant and cron time."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
from cronsim import CronSim

from ft_dagster.assets.bench import PARTITIONS
from ft_dagster.automation.jobs import variant_chain
from ft_dagster.automation.tags import DUE, VARIANT, variant_tags
from ft_dagster.errors import UserError
from ft_dagster.resources.tenants import Tenants
from ft_dagster.spec.variant import RetrainSpec

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


@dg.schedule(
    job=variant_chain,
    cron_schedule="* * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Asks for a run of each variant whose declared cron has come",
)
def due_variants(
    context: dg.ScheduleEvaluationContext, tenants: Tenants
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    now = context.scheduled_execution_time
    known = set(context.instance.get_dynamic_partitions(PARTITIONS))
    asked = 0
    for key in tenants.variants():
        try:
            due = last_due(tenants.declared(key).spec.retrain, now)
        except UserError as error:
            context.log.error(str(error))
            continue
        if due is None or str(key) not in known:
            continue
        stamp = due.strftime("%Y-%m-%dT%H.%MZ")
        filters = dg.RunsFilter(tags={VARIANT: str(key), DUE: stamp})
        if context.instance.get_runs_count(filters) == 0:
            asked += 1
            yield dg.RunRequest(
                run_key=f"{key}@{stamp}",
                partition_key=str(key),
                tags=variant_tags(key, "schedule") | {DUE: stamp},
            )
    if asked == 0:
        yield dg.SkipReason("no variant is due")
