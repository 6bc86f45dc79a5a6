"""Group fleet: boards over all tenants."""

from typing import Any

import dagster as dg

from ft_dagster.assets.bench import failures
from ft_dagster.report.tables import markdown_table
from ft_dagster.resources.gpus import Gpus


@dg.asset(name="gpus", group_name="fleet", kinds={"nvidia"}, code_version="1")
def gpus_board(gpus: Gpus) -> dg.MaterializeResult[Any]:
    """The devices of this host (GPUs, or CPU slots where there is none): who holds and who waits, and why."""
    with failures():
        inventory, table = gpus.inventory(), gpus.leases().table()
    rows = [[r.state, r.device, r.variant, r.since, r.reason] for r in table]
    return dg.MaterializeResult(
        metadata={
            "kind": inventory.kind,
            "devices": len(inventory.devices),
            "held": sum(row.state == "held" for row in table),
            "waiting": sum(row.state == "waiting" for row in table),
            "board": dg.MetadataValue.md(
                markdown_table(["state", "device", "variant", "since", "reason"], rows)
            ),
        }
    )
