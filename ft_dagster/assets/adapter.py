"""Shows a stage to Dagster: as an asset partitioned by variant, with its checks, metadata and errors."""

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg

from ft_dagster.assets.failures import failures, run_again_where_unreported, saying
from ft_dagster.assets.giving_way import give_way
from ft_dagster.assets.lineage import lineage, tell_above
from ft_dagster.assets.page import DIGITS, Metadata, Page, asset_link, run_link
from ft_dagster.assets.partitions import PROJECT, Graph, variant_of
from ft_dagster.dagster_private import DATA_VERSION, PRIORITY
from ft_dagster.records.record_tree import TreeHead
from ft_dagster.report.figures import breakable
from ft_dagster.report.sentences.next_step import NEXT_PAGE
from ft_dagster.resources import LAUNCHER, TENANTS
from ft_dagster.resources.launchers import Programs
from ft_dagster.resources.tenants import Tenants
from ft_dagster.stage_entries import FINE_TUNED_MODEL, GENERAL_CORPUS, version_of
from ft_dagster.stages.chain import CHAIN, STEPS
from ft_dagster.store import Artifact, find_artifact
from ft_dagster.workspace.stage import Check, Stage, Step
from ft_dagster.workspace.workspace import RunOf, Workspace

Describe = Callable[[Workspace, Artifact], Page]
RUN = "run"  # metadata: the run that made the artifact, whichever run shows it
BEFORE = 20  # materializations of a partition among which that run is looked for
GIVEN: tuple[Stage[Any] | Step, ...] = (*CHAIN, *STEPS)
READS = {each.name: [read.name for read in each.reads] for each in GIVEN}
# Of steps that could both be next a run takes the training first: its base may be judged just now for another
# variant, which would be waited for while devices idle.
FIRST = {FINE_TUNED_MODEL.name: {PRIORITY: "1"}}


def stage_asset(
    graph: Graph, stage: Stage[Any], *, group: str, kinds: set[str], describe: Describe
) -> dg.AssetsDefinition:
    """Make the asset of a stage; its checks block what comes after. `describe`: what its page shows."""

    def run(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult[Any]:
        if stage.name in FIRST and find_artifact(workspace.store, workspace.recipe(stage)[0].place) is None:
            give_way(context, saying(context))
        artifact = workspace.make(stage)
        made_by = maker(context, artifact.digest, artifact.reused)
        page = describe(workspace, artifact).metadata(links(context, stage.name, made_by))
        checks = list(stage.judge(workspace, artifact))
        if not artifact.reused and not all(check.passed for check in checks):  # the run ends here
            tell_above(context, workspace)
        return dg.MaterializeResult(
            metadata={**page, **_common(workspace, artifact, made_by)},
            data_version=dg.DataVersion(artifact.digest),
            check_results=list(map(as_result, checks)),
        )

    return variant_asset(graph, stage, run, description=described(stage.build), group=group, kinds=kinds)


def variant_asset(
    graph: Graph,
    step: Stage[Any] | Step,
    run: Callable[[dg.AssetExecutionContext, Workspace], dg.MaterializeResult[Any]],
    *,
    description: str,
    group: str,
    kinds: set[str],
) -> dg.AssetsDefinition:
    """Make an asset partitioned by variant that works in the variant's workspace."""
    name = step.name

    @dg.asset(
        key=graph.key(name),
        description=description,
        partitions_def=graph.variants,
        deps=[*(graph.key(each) for each in dependencies(name)), *graph.above(name)],
        group_name=graph.name(group),
        kinds=kinds,
        check_specs=_check_specs(graph, name, step.checks),
        code_version=str(version_of(name)),
        metadata={PROJECT: graph.project} if graph.project else None,
        op_tags=FIRST.get(name),
        required_resource_keys={graph.name(TENANTS), graph.name(LAUNCHER)},
        hooks={run_again_where_unreported},
    )
    def asset(
        context: dg.AssetExecutionContext,
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]  # dagster reads it as a list with the parameter
        tenants: Tenants = getattr(context.resources, graph.name(TENANTS))
        launcher: Programs = getattr(context.resources, graph.name(LAUNCHER))
        with failures(context, lambda: tenants.settings().retries):
            reason = context.run.tags.get("ft/reason", "materialized")
            ended = partial(has_ended, context.instance)
            settings = tenants.settings()
            reporting = partial(_pipes, context, settings.work_folder)
            run_of = RunOf(context.run_id, reason, saying(context), reporting, ended)
            key = variant_of(context)
            return run(context, Workspace(settings, key, run_of, launcher=launcher.open()))

    return asset


def has_ended(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Say whether a run has ended, as Dagster knows; a process of it may live on for a while."""
    run = instance.get_run_by_id(run_id)
    return run is not None and run.is_finished


def described(function: Callable[..., Any]) -> str:
    """Return the description of the file that a function stands in, as markdown without indents."""
    return inspect.cleandoc(sys.modules[function.__module__].__doc__ or "")


def maker(context: dg.AssetExecutionContext, digest: str, reused: bool) -> str | None:
    """Return the id of the run that made an artifact: this one, or the one that an earlier materialization of
    it names; None where Dagster does not know it any more.
    """
    if not reused:
        return context.run_id
    asked = dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=[context.partition_key])
    for record in context.instance.fetch_materializations(asked, limit=BEFORE).records:
        made = record.asset_materialization
        if made is not None and (made.tags or {}).get(DATA_VERSION) == digest and RUN in made.metadata:
            return str(made.metadata[RUN].value)
    return None


def links(context: dg.AssetExecutionContext, name: str, made_by: str | None) -> str:
    """Link the run that made it, the pages of what is directly above, and the one that is named as next;
    markdown.
    """
    said = "made earlier" if made_by is None else f"made by {run_link(made_by)}"
    partition = {
        each: None if each == GENERAL_CORPUS.name else context.partition_key for each in dependencies(name)
    }
    beside = Graph(tuple(context.asset_key.path[:-1]))
    above = ", ".join(asset_link(beside.key(each), key) for each, key in partition.items())
    following = [beside.key(NEXT_PAGE[name][0])] if name in NEXT_PAGE else []
    after = "".join(f"; next page: {asset_link(key, context.partition_key)}" for key in following)
    return said.capitalize() + (f" from {above}" if above else "") + after


def dependencies(name: str) -> list[str]:
    """Return the assets directly above one: of what its stage reads, all that no other of them reads
    already.
    """
    assets = {*READS, GENERAL_CORPUS.name} - {name}
    read = [each for each in READS[name] if each in assets]
    return [each for each in read if not any(each in _ancestors(other) for other in read if other != each)]


def _ancestors(name: str) -> set[str]:
    direct = set(READS.get(name, ())) - {name}
    return direct.union(*(_ancestors(each) for each in direct))


def _common(workspace: Workspace, artifact: Artifact, made_by: str | None) -> Metadata:
    """Return what every artifact's page says at its end."""
    run = {} if made_by is None else {RUN: dg.MetadataValue.dagster_run(made_by)}
    place = artifact.place
    return {
        **lineage(workspace, artifact),
        "digest": dg.MetadataValue.text(artifact.digest[:DIGITS]),
        **run,
        "reused": dg.MetadataValue.bool(artifact.reused),
        "size_mb": dg.MetadataValue.float(round(artifact.size / 1e6, 3)),
        "owners": dg.MetadataValue.text(", ".join(workspace.spec.owners)),
        "in_store": dg.MetadataValue.text(breakable(f"{place.prefix}/{place.stage}/{place.key[:DIGITS]}…")),
        **_records(artifact),
    }


def _records(artifact: Artifact) -> Metadata:
    """Return the entries of the record tree of a data set or a mixture."""
    head = TreeHead.of(artifact.figures)
    if head is None:
        return {}
    return {
        "records": dg.MetadataValue.int(head.size),
        "record_tree": dg.MetadataValue.text(head.root[:DIGITS]),
    }


def as_result(check: Check) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=check.name, passed=check.passed, description=check.sentence, metadata=check.figures
    )


def _check_specs(graph: Graph, asset: str, checks: Mapping[str, str]) -> Sequence[dg.AssetCheckSpec]:
    """Return partitioned checks, or one tenant's pass would hide another's failure; Dagster calls that a
    preview.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                name,
                asset=graph.key(asset),
                description=text,
                blocking=True,
                partitions_def=graph.variants,
            )
            for name, text in checks.items()
        ]


@contextmanager
def _pipes(context: dg.AssetExecutionContext, work: Path) -> Iterator[Mapping[str, str]]:
    """Yield the environment with which a program reports to this step through Dagster Pipes, by files in
    `work`: all that work there see them.
    """
    work.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".pipes-", dir=work) as folder:
        injector = dg.PipesFileContextInjector(f"{folder}/context")
        reader = dg.PipesFileMessageReader(f"{folder}/messages")
        with dg.open_pipes_session(context, injector, reader) as session:
            yield dict(session.get_bootstrap_env_vars())
