"""The job that takes one variant through the whole graph, in one process: heavy work is in children."""

import dagster as dg

from ft_dagster.assets import data, evaluation, planning, release, training
from ft_dagster.assets.partitions import VARIANTS

CHAIN = [
    data.declaration,
    data.base_model,
    data.general_corpus,
    data.task_dataset,
    data.training_mixture,
    planning.training_plan,
    training.fine_tuned_model,
    evaluation.base_evaluation,
    evaluation.evaluation,
    release.model_export,
    release.release,
]

variant_chain = dg.define_asset_job(
    "variant_chain",
    selection=dg.AssetSelection.assets(*CHAIN),
    partitions_def=VARIANTS,
    executor_def=dg.in_process_executor,
    description="From the declaration of one variant to its release; unchanged stages are reused",
)
