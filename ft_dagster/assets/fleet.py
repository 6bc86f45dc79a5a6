"""Group fleet: boards over all tenants."""

from typing import Any

import dagster as dg

from ft_dagster.assets.failures import failures
from ft_dagster.assets.partitions import Graph
from ft_dagster.report.gpus import COLUMNS, status_rows
from ft_dagster.report.tables import markdown_table
from ft_dagster.resources import GPUS
from ft_dagster.resources.gpus import Gpus

DEVICES = "The devices of this host (GPUs, or CPU slots where there is none): who holds, who waits, and why."


def fleet_assets(graph: Graph) -> list[dg.AssetsDefinition]:
    return [_gpus(graph)]


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
            table = gpus.leases().table()
        return dg.MaterializeResult(
            metadata={
                "kind": table.kind,
                "devices": len({d.device for d in table.devices}),
                "held": len({d.device for d in table.devices if d.state != "free"}),
                "waiting": len(table.waiting),
                "devices_now": dg.MetadataValue.md(markdown_table(COLUMNS, status_rows(table))),
            }
        )

    return gpus_status
