"""Group release: the export with its certificate, and the append-only log of what was released."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from ft_dagster.assets.adapter import described, links, maker, stage_asset, variant_asset
from ft_dagster.assets.lineage import tell_above
from ft_dagster.assets.page import DIGITS, Page, table
from ft_dagster.assets.partitions import Graph
from ft_dagster.evaluation.verdict_words import production_sentence, verdict_sentence, verdict_word
from ft_dagster.export.served import command_of
from ft_dagster.lineage.certificate import Certificate
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.report.cards import without_header
from ft_dagster.report.certificates import CERTIFICATE, certificate_rows
from ft_dagster.report.made_of import MADE_OF, made_rows
from ft_dagster.report.summaries import PAGE_RULES, export_summary, page_rules_rows, release_summary
from ft_dagster.report.svg import Bar, bars, fitting, intervals, measured
from ft_dagster.report.tables import moment, size
from ft_dagster.stages import model_export as export_stage
from ft_dagster.stages import release as release_step
from ft_dagster.stages.made_of import made_of
from ft_dagster.stages.shelf import UNREADABLE, why_not
from ft_dagster.stages.verdicts import certificate_of
from ft_dagster.stages.version_report import keep_report
from ft_dagster.stages.workspace import Workspace
from ft_dagster.store import Artifact

GROUP = "release"
LOG = ("version", "what", "when (UTC)", "by", "reason")


def _model_export(workspace: Workspace, artifact: Artifact) -> Page:
    certificate, format = certificate_of(workspace, artifact), workspace.spec.export.format
    card = (workspace.evidence(artifact) / "README.md").read_text("utf-8")
    serve = command_of(workspace.payload(artifact), format, str(workspace.key))
    entries = {
        "certificate": _certificate(certificate),
        "files": table(["file", "size", "sha256"], _files(artifact)),
        "card": dg.MetadataValue.md(without_header(card)),
        "format": format,
    }
    files = [Bar(file["path"], file["size"], size(file["size"])) for file in artifact.predicate["payload"]]
    picture = fitting(bars, sorted(files, key=lambda bar: -bar.value), "files by size")
    return Page(export_summary(format, artifact.size, certificate, serve), entries, picture)


def _certificate(certificate: Certificate) -> dg.MetadataValue[Any]:
    return table(CERTIFICATE, certificate_rows(certificate.figures))


def _files(artifact: Artifact) -> list[list[Any]]:
    return [
        [file["path"], size(file["size"]), file["sha256"][:DIGITS]] for file in artifact.predicate["payload"]
    ]


def _log(past: Sequence[ReleaseEntry]) -> list[list[Any]]:
    """The release log, oldest first; `ft-dagster history` has more of it."""
    return [[e.version, e.action, moment(e.at), e.by, e.reason] for e in past]


def _made_of(workspace: Workspace, export: Artifact, entry: ReleaseEntry) -> dg.MetadataValue[Any]:
    """The release stands, whatever else of the store cannot be read."""
    try:
        made = made_of(workspace.store, workspace.prefix, export, workspace.cache)
        return table(MADE_OF, made_rows(made.files, made.artifacts, entry))
    except UNREADABLE as error:
        return dg.MetadataValue.text(why_not(error))


def _release(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult[Any]:
    done = release_step.release(workspace)
    entry, verdict = done.entry, done.verdict
    said = [verdict_sentence(verdict), production_sentence(verdict)]
    production, payload = done.history[-1].production, workspace.payload(done.export)
    serve = command_of(payload, entry.format, str(workspace.key))
    summary = release_summary(entry.version, production, ". ".join(filter(None, said)), done.next)
    entries = {
        "made_of": _made_of(workspace, done.export, entry),
        "rules": table(PAGE_RULES, page_rules_rows(verdict.rules)),
        "certificate": _certificate(certificate_of(workspace, done.export)),
        "served_by": serve or "transformers and PEFT: see the card of model_export",
        "history": table(LOG, _log(done.history)),
        "outcome": verdict_word(verdict),
        "version": entry.version,
        "production": production or "none yet",
        "report": keep_report(workspace.settings, workspace.key, entry.version),
        "owners": ", ".join(workspace.spec.owners),
    }
    if entry.run_id == context.run_id:
        tell_above(context, workspace)
    picture = fitting(intervals, measured(verdict.rules), "changes with their intervals")
    made_by = entry.run_id or maker(context, entry.export, True)
    more = f"{links(context, release_step.NAME, made_by)}; its report: `ft-dagster report {workspace.key}`"
    return dg.MaterializeResult(
        metadata=Page(summary, entries, picture).metadata(more),
        data_version=dg.DataVersion(entry.export),
    )


def release_assets(graph: Graph) -> list[dg.AssetsDefinition]:
    said = described(release_step.release)
    return [
        stage_asset(graph, export_stage.STAGE, group=GROUP, kinds={"huggingface"}, describe=_model_export),
        variant_asset(graph, release_step.NAME, _release, description=said, group=GROUP, kinds={"json"}),
    ]
