"""Tags each run of a variant before it is queued, whoever submits it and whatever tags its submitter wrote:
the queue counts runs by them.

Dagster's own per-partition tags reach named jobs only; the UI's Materialize button and backfills use
a job that gets none. Webserver and daemon load this class, as the instance's dagster.yaml says.
"""

from dagster import DagsterRun, DynamicPartitionsDefinition
from dagster._core.definitions.assets.graph.remote_asset_graph import RemoteAssetNode
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._core.storage.tags import BACKFILL_ID_TAG, SCHEDULE_NAME_TAG, SENSOR_NAME_TAG

from ft_dagster.assets.partitions import PARTITIONS, PROJECT
from ft_dagster.automation.tags import changed_tags, disowned_tags, unasked_tags


class VariantRunCoordinator(QueuedRunCoordinator):
    """Is Dagster's queue, with tenant, variant, reason and priority on every run of a variant. Of another run
    it takes the tenant and variant that it claims, of one that no sensor asked for what only a sensor may
    say, and nothing else.
    """

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        run = context.dagster_run
        project = project_of(context)
        tags = disowned_tags(run) if project is None else changed_tags(run, project)
        tags |= {} if is_asked_by_a_sensor(context) else unasked_tags(run)
        if tags:
            self._instance.add_run_tags(run.run_id, tags)
        return super().submit_run(context)


def is_asked_by_a_sensor(context: SubmitRunContext) -> bool:
    """Say whether a sensor or a schedule submits a run, or the daemon runs such a one again: their tags are
    what code says. The tags of what comes by a web request or of a backfill are what a person wrote.
    """
    tags = context.dagster_run.tags
    if BACKFILL_ID_TAG in tags or getattr(context.workspace, "source", None) is not None:
        return False
    return SENSOR_NAME_TAG in tags or SCHEDULE_NAME_TAG in tags


def project_of(context: SubmitRunContext) -> str | None:
    """Return the project folder of a run's assets, as their definitions say; "" where the environment says
    it, None where no asset of the run is of a variant.
    """
    run = context.dagster_run
    for node in context.workspace.asset_graph.asset_nodes:
        chosen = node.key in run.asset_selection if run.asset_selection else run.job_name in node.job_names
        if chosen and _is_of_a_variant(node):
            return str(getattr(node.metadata.get(PROJECT), "value", ""))
    return None


def _is_of_a_variant(node: RemoteAssetNode) -> bool:
    by = node.partitions_def
    return isinstance(by, DynamicPartitionsDefinition) and (by.name or "").endswith(PARTITIONS)
