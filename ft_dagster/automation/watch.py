"""Looks at sources and bases of variants apart from the tick that decides: a listing may take its time."""

from datetime import UTC, datetime

import dagster as dg

from ft_dagster.assets.partitions import Graph
from ft_dagster.automation.fleet_table import open_fleet, refuse_lost
from ft_dagster.errors import UserError
from ft_dagster.fleet.refresh.watching import MOST_PLACES, look
from ft_dagster.resources import TENANTS
from ft_dagster.resources.tenants import Tenants
from ft_dagster.settings import Settings


def changed_sources(graph: Graph) -> dg.SensorDefinition:
    """Make the sensor `changed_sources`."""

    @dg.sensor(
        name=graph.name("changed_sources"),
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Lists sources and bases, and reads of them what has new times and the size that it had",
        required_resource_keys={graph.name(TENANTS)},
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        tenants: Tenants = getattr(context.resources, graph.name(TENANTS))
        return _look(context, tenants.settings(), graph)

    return sensor


def _look(context: dg.SensorEvaluationContext, settings: Settings, graph: Graph) -> dg.SkipReason:
    try:
        table = open_fleet(context.instance, settings, graph)
        refuse_lost(context.instance, settings, table, graph)
        looked = look(table, settings, datetime.now(UTC))
    except UserError as error:
        context.log.error(str(error))
        return dg.SkipReason(str(error))
    for message in looked.errors.values():
        context.log.error(message)
    if looked.too_much is not None:
        context.log.warning(looked.too_much)
    changed = ", ".join(looked.changed) or "none"
    failed = f"; {len(looked.errors)} could not be looked at" if looked.errors else ""
    waiting = f"; {looked.waiting} wait, of which {MOST_PLACES} fit a look" if looked.waiting else ""
    said = f"{looked.listed} places listed; variants with changes: {changed}{failed}{waiting}"
    return dg.SkipReason(". ".join(filter(None, (said, looked.too_much))))
