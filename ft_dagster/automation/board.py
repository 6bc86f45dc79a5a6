"""Reports the asset `fleet` without a run where anything changed of what it shows."""

import json
from datetime import datetime, timedelta

import dagster as dg

from ft_dagster.assets.fleet import BOARD as ASSET
from ft_dagster.assets.fleet import fleet_metadata
from ft_dagster.assets.partitions import Graph
from ft_dagster.fleet.picture import picture_of
from ft_dagster.fleet.table.table import FleetTable
from ft_dagster.settings import Settings

EVERY = timedelta(minutes=10)  # at most
BOARD = "board"  # of the table: when it was reported, and after which change


def show_board(
    instance: dg.DagsterInstance, table: FleetTable, settings: Settings, now: datetime, graph: Graph
) -> bool:
    """Report the board and say whether it was reported. What changes meanwhile is the next one's; one that is
    killed is repeated.
    """
    changed = table.changed()
    at, shown = json.loads(table.meta(BOARD) or "[0, null]")
    if changed is None or changed == shown or now.timestamp() - at < EVERY.total_seconds():
        return False
    board = fleet_metadata(picture_of(table, settings, now))
    instance.report_runless_asset_event(dg.AssetMaterialization(graph.key(ASSET), metadata=board))
    table.set_meta(BOARD, json.dumps([now.timestamp(), changed]))
    return True
