"""The code location, assembled; nothing else."""

import dagster as dg

from ft_dagster.assets import fleet
from ft_dagster.automation.due import due_retrains
from ft_dagster.automation.jobs import CHAIN, variant_chain
from ft_dagster.automation.watch import changed_sources
from ft_dagster.resources import fixed
from ft_dagster.resources.gpus import Gpus
from ft_dagster.resources.launchers import LocalPrograms
from ft_dagster.resources.tenants import Tenants


def resources(project: str = "") -> dict[str, dg.ResourceDefinition]:
    """The resources of a project folder; empty: $FT_DAGSTER_PROJECT or the current folder.

    A run cannot configure them.
    """
    gpus = Gpus(project)
    return {"tenants": fixed(Tenants(project)), "gpus": fixed(gpus), "launcher": fixed(LocalPrograms(gpus))}


defs = dg.Definitions(
    assets=[*CHAIN, fleet.gpus_status, fleet.FLEET],
    jobs=[variant_chain],
    sensors=[due_retrains, changed_sources],
    resources=resources(),
    executor=dg.in_process_executor,
)
