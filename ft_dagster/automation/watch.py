"""Looks at sources and bases of variants apart from the tick that decides: a listing may take its time."""

from datetime import UTC, datetime

import dagster as dg

from ft_dagster.automation.fleet_table import open_fleet
from ft_dagster.errors import UserError
from ft_dagster.fleet.watching import look
from ft_dagster.resources.tenants import Tenants


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Lists sources (retrain.on_new_data) and bases (on_new_base), and reads none of them",
)
def changed_sources(context: dg.SensorEvaluationContext, tenants: dg.ResourceParam[Tenants]) -> dg.SkipReason:
    settings = tenants.settings()
    try:
        looked = look(open_fleet(context.instance, settings), settings, datetime.now(UTC))
    except UserError as error:
        context.log.error(str(error))
        return dg.SkipReason(str(error))
    for message in looked.errors.values():
        context.log.error(message)
    changed = ", ".join(looked.changed) or "none"
    failed = f"; {len(looked.errors)} could not be looked at" if looked.errors else ""
    return dg.SkipReason(f"{looked.listed} places listed; variants with changes: {changed}{failed}")
