"""Group fleet: boards over all tenants."""

from typing import Any

import dagster as dg

from ft_dagster.assets.failures import failures
from ft_dagster.report.gpus import COLUMNS, status_rows
from ft_dagster.report.tables import markdown_table
from ft_dagster.resources.gpus import Gpus


@dg.asset(name="gpus", group_name="fleet", kinds={"nvidia"}, code_version="1")
def gpus_status(gpus: dg.ResourceParam[Gpus]) -> dg.MaterializeResult[Any]:
    """The devices of this host (GPUs, or CPU slots where there is none): who holds and who waits, and why."""
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
