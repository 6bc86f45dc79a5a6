"""Makes the job that takes one variant through the whole graph, in one process: heavy work is in children."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ft_dagster.assets.data import data_assets
from ft_dagster.assets.evaluation import evaluation_assets
from ft_dagster.assets.partitions import GRAPH, Graph
from ft_dagster.assets.planning import planning_assets
from ft_dagster.assets.release import release_assets
from ft_dagster.assets.training import training_assets

JOB = "variant_chain"


def chain(graph: Graph) -> list[dg.AssetsDefinition]:
    """Return the assets from a declaration to its release."""
    parts = (data_assets, planning_assets, training_assets, evaluation_assets, release_assets)
    return [asset for assets in parts for asset in assets(graph)]


def chain_job(graph: Graph, assets: list[dg.AssetsDefinition]) -> UnresolvedAssetJobDefinition:
    return dg.define_asset_job(
        graph.name(JOB),
        selection=dg.AssetSelection.assets(*assets),
        partitions_def=graph.variants,
        executor_def=dg.in_process_executor,
        description="From the declaration of one variant to its release; unchanged stages are reused",
    )


CHAIN = chain(GRAPH)
