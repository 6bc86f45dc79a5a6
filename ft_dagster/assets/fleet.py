"""Group fleet: boards over all tenants.

`fleet` has no run of its own: the sensor that looks at the fleet reports it where something changed.
"""

from typing import Any

import dagster as dg

from ft_dagster.assets.failures import failures
from ft_dagster.assets.page import SUMMARY, table
from ft_dagster.assets.partitions import Graph
from ft_dagster.fleet.picture import FleetPicture
from ft_dagster.fleet.status import COLUMNS as STATUS
from ft_dagster.fleet.status import ORDER, arranged, counts, sentence
from ft_dagster.report.gpus import COLUMNS, status_rows
from ft_dagster.report.tables import markdown_table
from ft_dagster.resources import GPUS
from ft_dagster.resources.gpus import Gpus

DEVICES = "The devices of this host (GPUs, or CPU slots where there is none): who holds, who waits, and why."


BOARD = "fleet"
ROWS = 200  # of the board, those that need a person first


def fleet_assets(graph: Graph) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    return [_gpus(graph), board(graph)]


def _gpus(graph: Graph) -> dg.AssetsDefinition:
    @dg.asset(
        key=graph.key("gpus"),
        description=DEVICES,
        group_name=graph.name("fleet"),
        kinds={"nvidia"},
        code_version="1",
        required_resource_keys={graph.name(GPUS)},
    )
    def gpus_status(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        gpus: Gpus = getattr(context.resources, graph.name(GPUS))
        with failures():
            devices = gpus.leases().table()
        return dg.MaterializeResult(
            metadata={
                "kind": devices.kind,
                "devices": len({d.device for d in devices.devices}),
                "held": len({d.device for d in devices.devices if d.state != "free"}),
                "waiting": len(devices.waiting),
                "devices_now": dg.MetadataValue.md(markdown_table(COLUMNS, status_rows(devices))),
            }
        )

    return gpus_status


def board(graph: Graph) -> dg.AssetSpec:
    """The asset `fleet`, which a sensor reports (automation/board.py)."""
    return dg.AssetSpec(
        graph.key(BOARD),
        group_name=graph.name("fleet"),
        kinds={"table"},
        code_version="1",
        description="Each variant's state and its cause, gains, age, cost, and the next retrain, retired and "
        "broken ones too; reported by `due_retrains` where something changed, at most every ten minutes",
    )


def fleet_metadata(picture: FleetPicture) -> dict[str, Any]:
    """What its page shows: a sentence, how many there are of each state (to plot), the rows."""
    rows, found = picture.rows, counts(picture.rows)
    shown = [row.cells for row in arranged(rows)[:ROWS]]
    said = f"{sentence(rows)}."
    if len(rows) > len(shown):
        said += f" The first {len(shown)} are below; `ft-dagster status` has all."
    return {
        SUMMARY: dg.MetadataValue.md(said),
        "variants": table(STATUS, shown),
        **{f"{state} variants": found.get(state, 0) for state in ORDER},
        "hours to date": sum(row.hours for row in rows),
        "USD to date": sum(row.usd for row in rows),
    }
