"""Tags each run of a variant before it is queued, whoever submits it and whatever tags its submitter wrote:
the queue counts runs by them.

Dagster's own per-partition tags reach named jobs only; the UI's Materialize button and backfills use
a job that gets none. Webserver and daemon load this class, as the instance's dagster.yaml says.
"""

import dagster as dg

from ft_dagster.assets.partitions import PARTITIONS, PROJECT
from ft_dagster.automation.tags import changed_tags, disowned_tags, unasked_tags
from ft_dagster.dagster_private import BACKFILL, SCHEDULE, SENSOR


class VariantRunCoordinator(dg.QueuedRunCoordinator):
    """Is Dagster's queue, with tenant, variant, reason and priority on every run of a variant. Of another run
    it takes the tenant and variant that it claims, of one that no sensor asked for what only a sensor may
    say, and nothing else.
    """

    def submit_run(self, context: dg.SubmitRunContext) -> dg.DagsterRun:
        run = context.dagster_run
        project = project_of(context)
        tags = disowned_tags(run) if project is None else changed_tags(run, project)
        tags |= {} if is_asked_by_a_sensor(context) else unasked_tags(run)
        if tags:
            self._instance.add_run_tags(run.run_id, tags)
        return super().submit_run(context)


def is_asked_by_a_sensor(context: dg.SubmitRunContext) -> bool:
    """Say whether a sensor or a schedule submits a run, or the daemon runs such a one again: their tags are
    what code says. The tags of what comes by a web request or of a backfill are what a person wrote.
    """
    tags = context.dagster_run.tags
    if BACKFILL in tags or getattr(context.workspace, "source", None) is not None:
        return False
    return SENSOR in tags or SCHEDULE in tags


def project_of(context: dg.SubmitRunContext) -> str | None:
    """Return the project folder of a run's assets, as their definitions say; "" where the environment says
    it, None where no asset of the run is of a variant.
    """
    run = context.dagster_run
    for node in context.workspace.asset_graph.asset_nodes:
        chosen = node.key in run.asset_selection if run.asset_selection else run.job_name in node.job_names
        if chosen and _are_variants(node.partitions_def):
            return str(getattr(node.metadata.get(PROJECT), "value", ""))
    return None


def _are_variants(by: dg.PartitionsDefinition | None) -> bool:
    return isinstance(by, dg.DynamicPartitionsDefinition) and (by.name or "").endswith(PARTITIONS)
