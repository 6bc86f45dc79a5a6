"""Tags each run of a variant before it is queued, whoever submits it and whatever tags its submitter wrote:
the queue counts runs by them, and Kubernetes makes their pods, or Ray their jobs, of them.

Dagster's own per-partition tags reach named jobs only; the UI's Materialize button and backfills use
a job that gets none. Webserver and daemon load this class, as the instance's dagster.yaml says.
"""

from collections.abc import Mapping
from typing import NamedTuple

import dagster as dg

from ft_dagster.assets.partitions import PARTITIONS, PROJECT
from ft_dagster.automation.clusters.watch import Watch
from ft_dagster.automation.fleet_table import open_fleet
from ft_dagster.automation.ray import order as ray_order
from ft_dagster.automation.run_pods import CONFIG, RESOURCES, pod_of, written
from ft_dagster.automation.tags import (
    DUE,
    NOBODY,
    changed_tags,
    disowned_tags,
    unasked_tags,
    variant_in,
)
from ft_dagster.dagster_private import (
    BACKFILL,
    SCHEDULE,
    SENSOR,
    BaseWorkspaceRequestContext,
    RemoteRepository,
)
from ft_dagster.errors import UserError
from ft_dagster.fleet.device_hours import may_compute
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import Declarations, Declared, VariantKey
from ft_dagster.stage_entries import GENERAL_CORPUS
from ft_dagster.strict_json import dumps


class OwnAssets(NamedTuple):
    """Names those assets of a run that are a project's. `project`: its folder, as their definitions say; ""
    where the environment says it. `variants`: whether any of them is of a variant.
    """

    project: str
    names: frozenset[str]
    variants: bool


class VariantRunCoordinator(dg.QueuedRunCoordinator):
    """Is Dagster's queue, with tenant, variant, reason and priority on every run of a variant, and what its
    pod or job is where runs go to a cluster. Of another run it takes the tenant, variant, pod and job that it
    claims, of one that no sensor asked for what only a sensor may say, and nothing else.
    """

    _watch: Watch | None = None

    @property
    def dequeue_use_threads(self) -> bool:
        """Is what Dagster's daemon, and no other process, asks at each look at its queue: it watches runs at
        their cluster from the first on.
        """
        if self._watch is None:
            self._watch = Watch(self._instance)
        return super().dequeue_use_threads

    def dispose(self) -> None:
        if self._watch is not None:
            self._watch.end()
        super().dispose()

    def submit_run(self, context: dg.SubmitRunContext) -> dg.DagsterRun:
        run = context.dagster_run
        own = own_assets(run, context.workspace)
        is_variant = own is not None and own.variants
        tags = changed_tags(run, own.project) if own is not None and is_variant else disowned_tags(run)
        tags |= {} if is_asked_by_a_sensor(context) else unasked_tags(run)
        tags |= self._place_tags(context, own, {**run.tags, **tags})
        if tags:
            self._instance.add_run_tags(run.run_id, tags)
        return super().submit_run(context)

    def _place_tags(
        self, context: dg.SubmitRunContext, own: OwnAssets | None, tags: Mapping[str, str]
    ) -> dict[str, str]:
        """Return what the run's pod or job is, in place of what was claimed of it. A run of other code has
        what that code says. Where none can be made, RunPodLauncher and RunJobLauncher start none.
        """
        claimed = {name: "{}" for name in (CONFIG, RESOURCES, ray_order.CONFIG) if name in tags}
        if own is None:
            said = tags_of_code(context)
            return {name: said.get(name, nothing) for name, nothing in claimed.items()}
        try:
            settings = load_settings(own.project or None)
        except UserError:  # on another launcher the run says it
            return claimed
        if not settings.runs_in_cluster:
            return claimed
        key = variant_in(tags) if own.variants else None
        declared = None if key is None else _declared(settings, key)
        computes = may_compute(own.names)
        if declared is not None and computes and tags.get(DUE, NOBODY) == NOBODY and not own.project:
            computes = not is_known_to_stand(self._instance, settings, declared.key)
        tenant, run = None if key is None else key.tenant, context.dagster_run
        try:
            if settings.kubernetes is not None:
                return claimed | written(pod_of(settings, tenant, declared, computes=computes), tags)
            job = ray_order.job_of(settings, run.run_id, tenant, declared, computes=computes)
            return claimed | {ray_order.CONFIG: dumps(job)}
        except UserError as error:
            self._instance.report_engine_event(f"No pod and no job can be made: {error}", run)
            return claimed


def is_asked_by_a_sensor(context: dg.SubmitRunContext) -> bool:
    """Say whether a sensor or a schedule submits a run, or the daemon runs such a one again: their tags are
    what code says. The tags of what comes by a web request or of a backfill are what a person wrote.
    """
    tags = context.dagster_run.tags
    if BACKFILL in tags or getattr(context.workspace, "source", None) is not None:
        return False
    return SENSOR in tags or SCHEDULE in tags


def own_assets(run: dg.DagsterRun, workspace: BaseWorkspaceRequestContext) -> OwnAssets | None:
    """Return the assets of a run that are of variants, or the general corpus beside such; None where it has
    none. Those of another code location are not its own, whatever they and its job are called.
    """
    repository = _repository_of(run, workspace)
    nodes = [] if repository is None else list(repository.asset_graph.asset_nodes)
    variants = {node.key: node for node in nodes if _are_variants(node.partitions_def)}
    projects = {
        tuple(key.path[:-1]): str(getattr(node.metadata.get(PROJECT), "value", ""))
        for key, node in variants.items()
    }
    corpora = {dg.AssetKey([*place, GENERAL_CORPUS.name]) for place in projects}
    chosen = [
        node.key
        for node in nodes
        if (node.key in run.asset_selection if run.asset_selection else run.job_name in node.job_names)
        and (node.key in variants or node.key in corpora)
    ]
    if not chosen:
        return None
    first = next((key for key in chosen if key in variants), chosen[0])
    names = frozenset(key.path[-1] for key in chosen)
    return OwnAssets(projects[tuple(first.path[:-1])], names, first in variants)


def tags_of_code(context: dg.SubmitRunContext) -> Mapping[str, str]:
    """Return the tags that a run's job has by its code, whatever its submitter wrote."""
    repository = _repository_of(context.dagster_run, context.workspace)
    return {} if repository is None else repository.get_full_job(context.dagster_run.job_name).run_tags


def is_known_to_stand(instance: dg.DagsterInstance, settings: Settings, key: VariantKey) -> bool:
    """Say whether the fleet's table knows that a variant's version is what would be made now: its run only
    shows it again. The table is read as it is: where it knows nothing, or cannot be read, False.
    """
    try:
        (row,) = open_fleet(instance, settings).named([str(key)]) or (None,)
        current = Declarations(settings.project).stamp(key)
    except (UserError, OSError):
        return False
    if row is None or not row.learnt or row.stamp != current or row.version is None:
        return False
    version, state = row.version, row.state
    unknown = version.unread or version.unseen or state.broken or state.news or state.running
    return version.digest is not None and not version.causes and not unknown


def _repository_of(run: dg.DagsterRun, workspace: BaseWorkspaceRequestContext) -> RemoteRepository | None:
    """Return what a run's code defines; None where the run does not say where that is."""
    origin = run.remote_job_origin
    if origin is None:
        return None
    location = workspace.get_code_location(origin.location_name)
    return location.get_repository(origin.repository_origin.repository_name)


def _declared(settings: Settings, key: VariantKey) -> Declared | None:
    try:
        return Declarations(settings.project).declared(key)
    except UserError:
        return None


def _are_variants(by: dg.PartitionsDefinition | None) -> bool:
    return isinstance(by, dg.DynamicPartitionsDefinition) and (by.name or "").endswith(PARTITIONS)
