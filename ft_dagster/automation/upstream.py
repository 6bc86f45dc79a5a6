"""Takes over what upstream assets became: asks for snapshots, and has sources looked at that changed."""

import json
from datetime import UTC, datetime

import dagster as dg

from ft_dagster.assets.partitions import Graph
from ft_dagster.assets.upstream import newest_materialization
from ft_dagster.automation.fleet_table import open_fleet
from ft_dagster.data.sources.upstream import read_snapshot
from ft_dagster.errors import UserError
from ft_dagster.fleet.refresh.listing import WatchedPlace
from ft_dagster.fleet.table.table import FleetTable
from ft_dagster.resources import TENANTS
from ft_dagster.resources.tenants import Tenants
from ft_dagster.settings import Settings
from ft_dagster.spec.data import ASSET

SEEN = "upstream"  # of the table: the snapshot of each asset that was looked at
STAMP = "ft/upstream"  # of a run: the materialization that it was asked for


def upstream_updates(graph: Graph) -> dg.SensorDefinition:
    """Make the sensor `upstream_updates`, over the snapshots of the graph's upstream assets."""

    @dg.sensor(
        name=graph.name("upstream_updates"),
        asset_selection=dg.AssetSelection.assets(*map(graph.snapshot_key, graph.upstream)),
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Takes a snapshot of each upstream asset that was materialized since the one before",
        required_resource_keys={graph.name(TENANTS)},
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        tenants: Tenants = getattr(context.resources, graph.name(TENANTS))
        try:
            settings = tenants.settings()
            requests = outdated_snapshots(context.instance, settings, graph, datetime.now(UTC))
            look_at_new_snapshots(open_fleet(context.instance, settings, graph), settings, graph)
        except UserError as error:
            context.log.error(str(error))
            return dg.SkipReason(str(error))
        for name in sorted({*settings.upstream_assets} - {*graph.upstream}):
            context.log.warning(f"{name} was named after this code location was loaded: reload it")
        skipped = None if requests else dg.SkipReason("each snapshot is of the newest materialization")
        return dg.SensorResult(run_requests=requests, skip_reason=skipped)

    return sensor


def outdated_snapshots(
    instance: dg.DagsterInstance, settings: Settings, graph: Graph, now: datetime
) -> list[dg.RunRequest]:
    """Request a run for each asset whose newest materialization no snapshot is of; of one whose run did not
    come to its end, another each day. Raises UserError.
    """
    requests = []
    for name in graph.upstream:
        newest, taken = newest_materialization(instance, name), read_snapshot(settings.project, name)
        if newest is not None and (taken is None or taken.made.event < newest.event):
            stamp, keys = f"{name}@{newest.event}", [graph.snapshot_key(name)]
            once = f"{stamp} {now.date()}"
            requests.append(dg.RunRequest(run_key=once, asset_selection=keys, tags={STAMP: stamp}))
    return requests


def look_at_new_snapshots(table: FleetTable, settings: Settings, graph: Graph) -> list[str]:
    """Bring the turn of sources of which a new snapshot was taken; returns the names of their assets."""
    seen: dict[str, str] = json.loads(table.meta(SEEN) or "{}")
    taken = {name: read_snapshot(settings.project, name) for name in graph.upstream}
    now = {name: snapshot.sha256 for name, snapshot in taken.items() if snapshot is not None}
    new = [name for name, digest in now.items() if seen.get(name) != digest]
    table.put_off({str(WatchedPlace("data", f"{ASSET}{name}")): datetime.now(UTC) for name in new})
    if new:
        table.set_meta(SEEN, json.dumps({**seen, **now}))
    return new
