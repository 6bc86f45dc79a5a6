"""Makes the job that takes one variant through the whole graph, in one process: heavy work is in children."""

import dagster as dg

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


CHAIN = chain(GRAPH)
