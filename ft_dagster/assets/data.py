"""Builds the group data: what is declared, the base model, the general corpora, the tenant's rows, the
mixture.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from ft_dagster.assets.adapter import described, stage_asset
from ft_dagster.assets.failures import failures, run_again_where_unreported, saying
from ft_dagster.assets.page import DIGITS, OVERVIEW, Page, lines, table
from ft_dagster.assets.partitions import Graph
from ft_dagster.data.mixture.declared_warnings import declared_warnings
from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.data.rows.dataset_figures import DatasetFigures
from ft_dagster.data.rows.dataset_io import paths_of
from ft_dagster.data.rows.lengths import row_lengths
from ft_dagster.data.rows.splits import SPLITS
from ft_dagster.gate.power import too_few_rows
from ft_dagster.markdown import plain
from ft_dagster.models.base_record import BaseRecord
from ft_dagster.models.derived import started_from
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.report.charts.svg import Bar, bar_picture
from ft_dagster.report.figures import count, counted, size
from ft_dagster.report.sentences.next_step import next_of_stage
from ft_dagster.report.sentences.summaries import Summary, dataset_summary, mixture_summary
from ft_dagster.report.tables.comparison import split_headers, split_rows
from ft_dagster.report.tables.mixture import source_bars, source_shares
from ft_dagster.resources import TENANTS
from ft_dagster.resources.tenants import Tenants
from ft_dagster.spec.variant import pick
from ft_dagster.stage_entries import BASE_MODEL, DECLARATION, GENERAL_CORPUS, version_of
from ft_dagster.stages import base_model as base_stage
from ft_dagster.stages import declaration as declaration_stage
from ft_dagster.stages import general_corpus as corpus_stage
from ft_dagster.stages import task_dataset as dataset_stage
from ft_dagster.stages import training_mixture as mixture_stage
from ft_dagster.store import Artifact
from ft_dagster.versions.data_changes import DataChanges, data_changes
from ft_dagster.workspace.workspace import Workspace

GROUP = "data"
ORIGIN = ("rows", "data_version", "at")  # of a snapshot, what the page of a declaration says
BASE = ("reference", "revision", "architecture", "parameters", "weights_bytes", "dtype", "chat_template")
LENGTHS = ("median", "95% below", "longest")
COUNTS = {"examples": "examples", "tokens": "tokens", "trained_tokens": "trained on", "truncated": "cut"}


def _declaration(workspace: Workspace, artifact: Artifact) -> Page:
    declared, figures = workspace.spec, artifact.figures
    spec = declared.model_dump(mode="json")
    origins = json.loads((workspace.evidence(artifact) / "origins.json").read_text("utf-8"))
    if declared.data.samples != "metadata":  # they are text of rows
        spec["evaluation"]["canaries"] = counted(len(declared.evaluation.canaries), "text")
    values = [[name, json.dumps(pick(spec, name)), origin] for name, origin in origins.items()]
    own = sum(origin == workspace.declared_in.name for origin in origins.values())
    sources, files = counted(figures["sources"], "source"), counted(figures["files"], "file")
    summary = Summary(
        f"{plain(declared.description)}: {declared.objective} by {declared.method.name}",
        f"{sources} of {files}; {own} of {len(origins)} values are its own, the origin of each is below; "
        f"read from `{workspace.declared_in.relative_to(workspace.project)}`",
        next_of_stage(DECLARATION.name),
    )
    parts = [Bar(origin, fields, count(fields)) for origin, fields in Counter(origins.values()).most_common()]
    entries = {"values": table(["field", "value", "from"], values)}
    upstream = workspace.frozen.get("upstream", {})
    if upstream:
        rows = [[path, *(origin[name] for name in ORIGIN)] for path, origin in upstream.items()]
        entries["upstream"] = table(["asset", "rows", "data version", "materialized"], rows)
    return Page(summary, entries, bar_picture(parts, "number of values, by where they come from"))


def _base_model(workspace: Workspace, artifact: Artifact) -> Page:
    record = BaseRecord.read(workspace.payload(artifact))
    parent = started_from(artifact)
    more = {
        "parent": f"{parent['variant']} v{parent['version']} ({parent['mode']})" if parent else None,
        "new tokens": ", ".join(record.derived.new_tokens if record.derived else ()) or None,
    }
    rows = [*([name.replace("_", " "), getattr(record, name)] for name in BASE), *more.items()]
    weights = f"{count(record.parameters or 0)} weights"
    template = "has a chat template" if record.chat_template else "has no chat template"
    summary = Summary(
        f"{Path(record.reference).name}: {weights}, {size(record.weights_bytes or 0)}",
        f"{record.architecture} in {record.dtype}; it {template}",
        next_of_stage(BASE_MODEL.name),
    )
    files = sorted(record.files, key=lambda file: -file.size)
    parts = [Bar(file.path, file.size, size(file.size)) for file in files]
    entries = {"base": table(["name", "value"], [row for row in rows if row[1] is not None])}
    return Page(summary, entries, bar_picture(parts, "files by size"))


def _general_corpus(graph: Graph) -> dg.AssetsDefinition:
    @dg.asset(
        key=graph.key(GENERAL_CORPUS.name),
        description=described(corpus_stage.make_corpora),
        deps=graph.above(GENERAL_CORPUS.name),
        group_name=graph.name(GROUP),
        kinds={"parquet"},
        code_version=str(version_of(GENERAL_CORPUS.name)),
        required_resource_keys={graph.name(TENANTS)},
        hooks={run_again_where_unreported},
    )
    def general_corpus(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        tenants: Tenants = getattr(context.resources, graph.name(TENANTS))
        with failures(context, lambda: tenants.settings().retries):
            made = corpus_stage.make_corpora(tenants.settings(), context.run_id, saying(context))
        return dg.MaterializeResult(
            metadata=_corpora(made).metadata(""),
            data_version=dg.DataVersion(sha256_json({name: corpus.digest for name, corpus in made.items()})),
        )

    return general_corpus


def _corpora(made: Mapping[str, Artifact]) -> Page:
    rows = [
        [name, corpus.digest[:DIGITS], *(corpus.figures["documents"][part] for part in ("train", "holdout"))]
        for name, corpus in made.items()
    ]
    texts = sum(corpus.figures["documents"]["train"] for corpus in made.values())
    summary = Summary(
        f"{counted(len(made), 'corpus', 'corpora')} of {counted(texts, 'text')} to mix in",
        "A held-out part of each measures what is forgotten",
        next_of_stage(GENERAL_CORPUS.name),
    )
    entries = {
        "corpora": table(["corpus", "digest", "texts", "held out"], rows, OVERVIEW),
        "dagster/row_count": texts,
    }
    parts = [Bar(name, train, count(train)) for name, _, train, _ in rows]
    return Page(summary, entries, bar_picture(parts, "texts to mix in, by corpus"))


def _task_dataset(workspace: Workspace, artifact: Artifact) -> Page:
    figures = DatasetFigures.of(artifact)
    rows, dropped = figures.rows, figures.rows_dropped
    parts = [Bar(name, rows[name], count(rows[name])) for name in SPLITS if name in rows]
    lengths, changes = row_lengths(workspace.payload(artifact)), data_changes(workspace, artifact)
    warnings = too_few_rows(workspace.spec, figures.test_rows)
    entries = {
        "dagster/row_count": sum(rows.values()),
        "warnings": lines(warnings),
        "rows_dropped": dropped,
        "dropped": table(["reason", "rows"], figures.dropped.items()),
        "changed": _changed(changes),
        "overlaps": table(["task", "source", "rows"], _overlaps(figures)),
        "characters": table(["split", "rows", *LENGTHS], [[name, *found] for name, found in lengths.items()]),
    }
    return Page(
        dataset_summary(figures, _since(changes), warnings),
        entries,
        bar_picture([*parts, Bar("dropped", dropped, count(dropped))], "rows, by split"),
    )


def _since(changes: DataChanges | None) -> str:
    """Say what of the rows changed; empty where there is nothing to compare them with."""
    if changes is None:
        return ""
    return f"since version {changes.version}: {count(changes.added)} new, {count(changes.removed)} gone"


def _changed(changes: DataChanges | None) -> dg.MetadataValue[Any]:
    if changes is None:
        return dg.MetadataValue.text("no version was made of other rows")
    names = (f"version {changes.version}", "now")
    return table(split_headers(names), split_rows(changes.before, changes.now))


def _overlaps(figures: DatasetFigures) -> list[list[Any]]:
    """Return what was found of the evaluation's questions, and where; in which rows, the evidence alone
    says.
    """
    found = figures.overlaps.items()
    return [[task, source, rows] for task, sources in found for source, rows in sources.items()]


def _training_mixture(workspace: Workspace, artifact: Artifact) -> Page:
    figures, spec = MixtureFigures.of(artifact), workspace.spec
    train, share = figures.train, figures.general_share.realized
    paths = paths_of(spec)
    of, shares = source_shares(figures)
    rows = [
        [paths.get(source, source), *(getattr(part, name) for name in COUNTS), shares[source]]
        for source, part in train.by_source.items()
    ]
    warnings = [*figures.warnings, *declared_warnings(spec, share)]
    entries = {
        "warnings": lines(warnings),
        "sources": table(["source", *COUNTS.values(), "share"], rows),
        "packing": table(["figure", "tokens or rows"], _packing(figures)),
        "dagster/row_count": train.examples,
        "trained_tokens": train.trained_tokens,
        "general_share": round(share, 4),
        "dropped": table(["reason", "examples"], figures.dropped.items()),
        "overlaps": table(["task", "pieces of general text left out"], figures.overlaps.items()),
    }
    if spec.data.samples == "metadata":
        sample = (workspace.evidence(artifact) / mixture_stage.SAMPLE).read_text("utf-8")
        entries["sample"] = dg.MetadataValue.md(f"```\n{sample}\n```")
    picture = bar_picture(source_bars(figures, paths), f"{of}, by source")
    return Page(mixture_summary(figures, warnings), entries, picture)


def _packing(figures: MixtureFigures) -> list[list[Any]]:
    """Say how long the examples are, and how few rows they fill where they are packed."""
    train, most = figures.train, figures.max_length
    return [
        ["tokens of an example, on average", round(train.tokens / max(1, train.examples))],
        ["tokens of the longest", figures.longest],
        ["tokens of a row (training.max_length)", most],
        ["rows of one epoch, unpacked", train.examples],
        ["rows of one epoch, packed, at least", -(-train.tokens // most)],
    ]


def data_assets(graph: Graph) -> list[dg.AssetsDefinition]:
    return [
        stage_asset(graph, declaration_stage.STAGE, group=GROUP, kinds={"yaml"}, describe=_declaration),
        stage_asset(graph, base_stage.STAGE, group=GROUP, kinds={"huggingface"}, describe=_base_model),
        _general_corpus(graph),
        stage_asset(graph, dataset_stage.STAGE, group=GROUP, kinds={"parquet"}, describe=_task_dataset),
        stage_asset(graph, mixture_stage.STAGE, group=GROUP, kinds={"parquet"}, describe=_training_mixture),
    ]
