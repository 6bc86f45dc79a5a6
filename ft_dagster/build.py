"""Builds the definitions of a project's variants, for a code location of its own or among others' assets."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import dagster as dg

from ft_dagster.assets.fleet import board
from ft_dagster.assets.partitions import Graph
from ft_dagster.assets.upstream import upstream_assets
from ft_dagster.automation.due import due_retrains
from ft_dagster.automation.jobs import JOB, chain
from ft_dagster.automation.notify import told_events
from ft_dagster.automation.registry import registered_releases
from ft_dagster.automation.upstream import upstream_updates
from ft_dagster.automation.watch import changed_sources
from ft_dagster.errors import UserError
from ft_dagster.resources import GPUS, LAUNCHER, TENANTS, fixed
from ft_dagster.resources.gpus import Gpus
from ft_dagster.resources.launchers import Programs
from ft_dagster.resources.tenants import Tenants
from ft_dagster.settings import Settings

Resources = Mapping[str, dg.ResourceDefinition]


def build_defs(
    project: str | Path = "", *, key_prefix: str | Sequence[str] = (), resources: Resources | None = None
) -> dg.Definitions:
    """Build assets, job and sensors of a project.

    `project`: the folder with tenants/ and ft_dagster.yaml; "": $FT_DAGSTER_PROJECT or the current folder.
    Runs and sensors read it; a run cannot configure another. `key_prefix`: what the keys of the assets begin
    with, and the names of partitions, job, sensors, groups and resources: so several projects share a code
    location. `resources`: in place of `tenants`, `gpus` or `launcher`.

    Raises UserError for a prefix that Dagster refuses and for a resource of another name.
    """
    project = str(Path(project).expanduser().resolve()) if str(project) else ""
    settings = _settings(project)
    upstream = () if settings is None else settings.upstream_assets
    graph = Graph.of(key_prefix, project, upstream)
    assets = chain(graph)
    job = dg.define_asset_job(
        graph.name(JOB),
        selection=dg.AssetSelection.assets(*assets),
        partitions_def=graph.variants,
        executor_def=dg.in_process_executor,
        description="From the declaration of one variant to its release; unchanged stages are reused",
    )
    found = _resources(project, resources or {})
    sensors = [due_retrains(graph), changed_sources(graph), told_events(graph)]
    return dg.Definitions(
        assets=[*upstream_assets(graph), *assets, board(graph)],
        jobs=[job],
        sensors=[*sensors, *_asked_for(graph, settings)],
        resources={graph.name(name): made for name, made in found.items()},
    )


def default_resources(project: str = "") -> dict[str, dg.ResourceDefinition]:
    """Return the resources of a project folder, by name; a run cannot configure them."""
    gpus = Gpus(project)
    return {TENANTS: fixed(Tenants(project)), GPUS: fixed(gpus), LAUNCHER: fixed(Programs(gpus))}


def _settings(project: str) -> Settings | None:
    """Return the settings as they are when the definitions are built; None where they cannot be read, which
    each run says.
    """
    try:
        return Tenants(project).settings()
    except UserError:
        return None


def _asked_for(graph: Graph, settings: Settings | None) -> list[dg.SensorDefinition]:
    """Return the sensors of what the settings name."""
    registry = settings is not None and settings.registry.mlflow is not None
    sensors = [upstream_updates(graph)] if graph.upstream else []
    return [*sensors, *([registered_releases(graph)] if registry else [])]


def _resources(project: str, own: Resources) -> dict[str, dg.ResourceDefinition]:
    found = default_resources(project)
    for name in own:
        if name not in found:
            names = ", ".join(found)
            raise UserError("no resource of the graph", field="resources", value=name, fix=f"It has {names}")
    return {**found, **own}
