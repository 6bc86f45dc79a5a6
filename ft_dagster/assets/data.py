"""Group data: what is declared, the base model, the general corpora, the tenant's rows, the mixture."""

import json
from typing import Any

import dagster as dg

from ft_dagster.assets.adapter import Metadata, described, stage_asset
from ft_dagster.assets.failures import failures
from ft_dagster.data.dataset import paths_of
from ft_dagster.data.mixture import declared_warnings
from ft_dagster.data.mixture_figures import MixtureFigures
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.provenance.stage_versions import STAGE_VERSIONS
from ft_dagster.report.plots import as_markdown_image, mixture_bar
from ft_dagster.report.tables import markdown_table
from ft_dagster.resources.tenants import Tenants
from ft_dagster.stages import base_model as base_stage
from ft_dagster.stages import declaration as declaration_stage
from ft_dagster.stages import general_corpus as corpus_stage
from ft_dagster.stages import task_dataset as dataset_stage
from ft_dagster.stages import training_mixture as mixture_stage
from ft_dagster.stages.workspace import Workspace
from ft_dagster.store import Artifact

GROUP = "data"
BASE = ("reference", "revision", "architecture", "parameters", "weights_bytes", "dtype", "chat_template")
COUNTS = ("documents", "examples", "tokens", "trained_tokens", "truncated")


def _declaration(workspace: Workspace, artifact: Artifact) -> Metadata:
    spec = workspace.spec.model_dump(mode="json")
    origins = json.loads((workspace.evidence(artifact) / "origins.json").read_text("utf-8"))
    values = [[name, json.dumps(_value(spec, name)), origin] for name, origin in origins.items()]
    return {
        "description": workspace.spec.description,
        "objective": workspace.spec.objective,
        "method": workspace.spec.method.name,
        "file": dg.MetadataValue.path(str(workspace.declared_in)),
        "values": dg.MetadataValue.md(markdown_table(["field", "value", "from"], values)),
    }


def _value(tree: Any, path: str) -> Any:
    for name in path.split("."):
        tree = tree[name]
    return tree


def _base_model(workspace: Workspace, artifact: Artifact) -> Metadata:
    record = base_stage.read_record(workspace.payload(artifact))
    parent = artifact.figures.get("parent") or {}
    more = {
        "parent": f"{parent['variant']} v{parent['version']} ({parent['mode']})" if parent else None,
        "new_tokens": ", ".join((record.get("derived") or {}).get("new_tokens", [])) or None,
    }
    metadata = {**{name: record[name] for name in BASE}, **more}
    return {name: value for name, value in metadata.items() if value is not None}


@dg.asset(
    description=described(corpus_stage.make_corpora),
    group_name=GROUP,
    kinds={"parquet"},
    code_version=str(STAGE_VERSIONS["general_corpus"]),
)
def general_corpus(
    context: dg.AssetExecutionContext, tenants: dg.ResourceParam[Tenants]
) -> dg.MaterializeResult[Any]:
    with failures(context, lambda: tenants.settings().retries):
        made = corpus_stage.make_corpora(tenants.settings(), context.run_id, context.log.info)
    rows = [[name, corpus.digest[:12], json.dumps(corpus.figures)] for name, corpus in made.items()]
    return dg.MaterializeResult(
        metadata={
            "corpora": dg.MetadataValue.md(markdown_table(["corpus", "digest", "figures"], rows)),
            "dagster/row_count": sum(c.figures["documents"]["train"] for c in made.values()),
        },
        data_version=dg.DataVersion(sha256_json({name: corpus.digest for name, corpus in made.items()})),
    )


def _task_dataset(workspace: Workspace, artifact: Artifact) -> Metadata:
    figures = artifact.figures
    reasons = [[reason, count] for reason, count in figures["dropped"].items()]
    return {
        "dagster/row_count": sum(figures["rows"].values()),
        "rows": figures["rows"],
        "rows_read": figures["read"],
        "rows_dropped": sum(figures["dropped"].values()),
        "dropped": dg.MetadataValue.md(markdown_table(["reason", "rows"], reasons)),
        "overlaps": dg.MetadataValue.md(markdown_table(["task", "source", "rows"], _overlaps(figures))),
    }


def _overlaps(figures: dict[str, Any]) -> list[list[Any]]:
    """What was found of the evaluation's questions, and where; in which rows, the evidence alone says."""
    found = figures.get("overlaps", {})
    return [[task, source, rows] for task, sources in found.items() for source, rows in sources.items()]


def _training_mixture(workspace: Workspace, artifact: Artifact) -> Metadata:
    figures, spec = MixtureFigures.of(artifact), workspace.spec
    train, share = figures.train, figures.general_share.realized
    paths = paths_of(spec)
    by_source = {paths.get(source, source): part for source, part in train.by_source.items()}
    rows = [[source, *(getattr(part, name) for name in COUNTS)] for source, part in by_source.items()]
    headers = ["source", "documents", "examples", "tokens", "trained tokens", "truncated"]
    warnings = [*figures.warnings, *declared_warnings(spec, share)]
    metadata = {
        "dagster/row_count": train.examples,
        "tokens": train.tokens,
        "trained_tokens": train.trained_tokens,
        "general_share": share,
        "longest_example_tokens": figures.longest,
        "dropped": dict(figures.dropped),
        "overlaps": dict(figures.overlaps),
        "sources": dg.MetadataValue.md(markdown_table(headers, rows)),
        "mixture": dg.MetadataValue.md(as_markdown_image(mixture_bar(by_source))),
        "warnings": dg.MetadataValue.md("\n".join(f"- {w}" for w in warnings) or "none"),
    }
    if spec.data.samples == "metadata":
        sample = (workspace.evidence(artifact) / mixture_stage.SAMPLE).read_text("utf-8")
        metadata["sample"] = dg.MetadataValue.md(f"```\n{sample}\n```")
    return metadata


declaration = stage_asset(declaration_stage.STAGE, group=GROUP, kinds={"yaml"}, describe=_declaration)
base_model = stage_asset(base_stage.STAGE, group=GROUP, kinds={"huggingface"}, describe=_base_model)
task_dataset = stage_asset(dataset_stage.STAGE, group=GROUP, kinds={"parquet"}, describe=_task_dataset)
training_mixture = stage_asset(
    mixture_stage.STAGE, group=GROUP, kinds={"parquet"}, describe=_training_mixture
)
