"""Builds the group release: the export with its certificate, and the append-only log of what was released."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from ft_dagster.assets.adapter import as_result, described, links, maker, stage_asset, variant_asset
from ft_dagster.assets.lineage import tell_above
from ft_dagster.assets.page import ALONE, DIGITS, SUMMARY, Metadata, Page, asset_link, run_link, table
from ft_dagster.assets.partitions import GRAPH, Graph
from ft_dagster.dagster_private import DATA_VERSION
from ft_dagster.errors import UserError
from ft_dagster.export.served import command_of
from ft_dagster.fleet.device_hours import devices_of, hours_of
from ft_dagster.gate.verdict_words import verdict_sentence, verdict_word, versions_sentence
from ft_dagster.lineage.certificate import Certificate
from ft_dagster.lineage.entry import RELEASE, ROLLBACK, ReleaseEntry
from ft_dagster.lineage.serving import may_serve_words
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.lineage.version_status import status_of
from ft_dagster.report.cards import without_header
from ft_dagster.report.charts.svg import Bar, bar_picture, interval_pictures
from ft_dagster.report.figures import moment, size
from ft_dagster.report.sentences.certificates import CERTIFICATE, certificate_rows
from ft_dagster.report.sentences.next_step import Result, next_step
from ft_dagster.report.sentences.summaries import (
    PAGE_RULES,
    Summary,
    export_summary,
    judged_summary,
    page_rules_rows,
    release_summary,
)
from ft_dagster.report.tables.lineage_rows import MADE_OF, made_rows
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import EVALUATION
from ft_dagster.stages import model_export as export_stage
from ft_dagster.stages import release as release_step
from ft_dagster.stages import release_evaluation
from ft_dagster.stages.judging.export_lineage import made_of
from ft_dagster.stages.judging.may_serve import Today, findings_in
from ft_dagster.stages.judging.verdicts import certificate_of
from ft_dagster.store import Artifact
from ft_dagster.versions.version_course import COURSE, course_rows, courses
from ft_dagster.versions.version_files import UNREADABLE, VersionFiles, open_version, why_not
from ft_dagster.versions.version_report import keep_report
from ft_dagster.workspace.workspace import Workspace

GROUP = "release"
ANSWERS = ("made by", "questions", "how", "seconds", "digest")
VERSIONS = ("task", "version", "score", "interval", "questions")  # of COURSE: the report has all
LOG = ("version", "action", "when (UTC)", "by", "reason")
MAY_SERVE = "may_serve"  # metadata: whether the version might be served when it was shown
SIGNED = "signed"  # metadata: whose signature counts on the log's entry
LOG_ENTRIES = "log_entries"  # metadata: how many entries the log had when it was shown


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
    picture = bar_picture(sorted(files, key=lambda bar: -bar.value), "files by size")
    return Page(export_summary(format, artifact.size, certificate, serve), entries, picture)


def _certificate(certificate: Certificate) -> dg.MetadataValue[Any]:
    return table(CERTIFICATE, certificate_rows(certificate.figures))


def _files(artifact: Artifact) -> list[list[Any]]:
    return [
        [file["path"], size(file["size"]), file["sha256"][:DIGITS]] for file in artifact.predicate["payload"]
    ]


def _log(past: Sequence[ReleaseEntry]) -> list[list[Any]]:
    """Return the release log, oldest first; `ft-dagster history` has more of it."""
    return [[e.version, e.action, moment(e.at), e.by, e.reason] for e in past]


def _made_of(workspace: Workspace, export: Artifact, entry: ReleaseEntry) -> dg.MetadataValue[Any]:
    """Return what the release was made of; the release stands, whatever else of the store cannot be read."""
    try:
        made = made_of(workspace.store, workspace.prefix, export, entry)
        return table(MADE_OF, made_rows(made.files, made.artifacts, entry), ALONE)
    except UNREADABLE as error:
        return dg.MetadataValue.text(why_not(error))


def _release_evaluation(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult[Any]:
    done = release_evaluation.judge_release(workspace)
    check, held, judged = done.check, done.held, workspace.upstream(EVALUATION.name).figures["verdict"]
    verdict = Verdict.from_json(judged) if done.judgement is None else done.judgement.verdict
    asked = [each for each in held.answers if not each.reused]
    result = Result(str(workspace.key), verdict, workspace.spec.evaluation.limit)
    summary = judged_summary(held.versions, check.sentence, result)
    entries = {
        "outcome": verdict_word(verdict),
        "held_against": ", ".join(name for name, _ in held.versions) or "nothing",
        "rules": table(PAGE_RULES, page_rules_rows(verdict.rules)),
        **_versions(workspace),
        "answers": table(ANSWERS, map(_answers, held.answers), ALONE),
        "device_seconds": round(sum(3600 * hours_of(each) * devices_of(each) for each in asked), 3),
        "reused": not asked,
        "owners": ", ".join(workspace.spec.owners),
    }
    if not check.passed:  # the run ends here
        tell_above(context, workspace)
    more = links(context, release_evaluation.STEP.name, context.run_id)
    picture = interval_pictures(verdict.rules)
    return dg.MaterializeResult(
        metadata=Page(summary, entries, picture).metadata(more),
        data_version=dg.DataVersion(done.export.digest),
        check_results=[as_result(check)],
    )


def _versions(workspace: Workspace) -> dict[str, dg.MetadataValue[Any]]:
    """Return what each version released so far scored; nothing before there are two."""
    places = [COURSE.index(name) for name in VERSIONS]
    rows = [
        [row[place] for place in places]
        for each in courses(workspace.store, workspace.prefix)
        for row in course_rows(each)
    ]
    return {"versions_over_time": table(VERSIONS, rows, ALONE)} if rows else {}


def _answers(answers: Artifact) -> list[Any]:
    """Return whose answers they are, how they came to be there, and what they took of a device."""
    how = "stored before" if answers.reused else "asked now"
    seconds = f"{3600 * hours_of(answers):.1f}"
    return [answers.place.stage, answers.figures["questions"], how, seconds, answers.digest[:DIGITS]]


def _release(context: dg.AssetExecutionContext, workspace: Workspace) -> dg.MaterializeResult[Any]:
    done = release_step.release(workspace)
    entry, verdict = done.entry, done.verdict
    said = [verdict_sentence(verdict), versions_sentence(verdict)]
    production, payload = done.history[-1].production, workspace.payload(done.export)
    serve = command_of(payload, entry.format, str(workspace.key))
    summary = release_summary(done.status, ". ".join(filter(None, said)), done.next)
    entries = {
        "made_of": _made_of(workspace, done.export, entry),
        "rules": table(PAGE_RULES, page_rules_rows(verdict.rules)),
        **_versions(workspace),
        "certificate": _certificate(certificate_of(workspace, done.export)),
        "served_by": serve or "transformers and PEFT: see the card of model_export",
        "history": table(LOG, _log(done.history), ALONE),
        LOG_ENTRIES: len(done.history),
        "outcome": verdict_word(verdict),
        "version": entry.version,
        "production": production or "none",
        MAY_SERVE: may_serve_words(done.unserved),
        SIGNED: entry.signed,
        "report": keep_report(workspace.settings, workspace.key, entry.version),
        "owners": ", ".join(workspace.spec.owners),
    }
    if entry.run_id == context.run_id:
        tell_above(context, workspace)
    picture = interval_pictures(verdict.rules)
    made_by = entry.run_id or maker(context, entry.export, True)
    more = f"{links(context, release_step.STEP.name, made_by)}; {_asked(workspace.key, entry.version)}"
    return dg.MaterializeResult(
        metadata=Page(summary, entries, picture).metadata(more),
        data_version=dg.DataVersion(entry.export),
    )


def _asked(key: VariantKey, version: int) -> str:
    """Say what tells more of a version than its page; markdown."""
    rows = f"`ft-dagster trace {key} --version {version} --to rows.jsonl`"
    return f"its report: `ft-dagster report {key} --version {version}`; its rows: {rows}"


def release_event(
    key: VariantKey, entry: ReleaseEntry, page: Metadata, graph: Graph
) -> dg.AssetMaterialization:
    """Return what shows an entry of the log that no run shows."""
    return dg.AssetMaterialization(
        graph.key(release_step.STEP.name),
        partition=str(key),
        description=f"{entry.action} by {entry.by}: {entry.reason or 'no reason given'}",
        metadata=page,
        tags={DATA_VERSION: entry.export},
    )


def put_into_production(settings: Settings, key: VariantKey, done: ReleaseEntry) -> Metadata:
    """Return what the page shows of a version that a person promoted or went back to, which no run did. That
    stands in the log already, whatever else of the store cannot be read, or reached: who is told of an error
    would do it again.
    """
    figures = {"version": done.version, "production": done.production or "none"}
    try:
        stored = open_version(settings, key, done.version)
        unserved = findings_in(Today.of(settings, key), stored.past, done)
        return {**_served(stored, done), MAY_SERVE: may_serve_words(unserved), **figures}
    except Exception as error:
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return {SUMMARY: dg.MetadataValue.text(f"could not be made: {said}"), **figures}


def _served(stored: VersionFiles, done: ReleaseEntry) -> Metadata:
    verdict, made_by = stored.verdict, None if stored.entry is None else stored.entry.run_id
    following = next_step(Result(str(stored.key), verdict, status=status_of(stored.past, done)))
    entries = {
        "made_of": table(MADE_OF, made_rows(stored.made.files, stored.made.artifacts, stored.entry), ALONE),
        "rules": table(PAGE_RULES, page_rules_rows(verdict.rules)),
        "history": table(LOG, _log(stored.past), ALONE),
        "outcome": verdict_word(verdict),
        SIGNED: done.signed,
        LOG_ENTRIES: len(stored.past),
    }
    picture = interval_pictures(verdict.rules)
    export = asset_link(GRAPH.key(export_stage.STAGE.name), str(stored.key))
    made = f"Made from {export}" if made_by is None else f"Made by {run_link(made_by)} from {export}"
    page = Page(Summary(_became(done), verdict_sentence(verdict), following), entries, picture)
    return page.metadata(f"{made}; {_asked(stored.key, done.version)}")


def page_of_entry(key: VariantKey, past: Sequence[ReleaseEntry]) -> Metadata:
    """Return what the page shows of a log's newest entry that nobody showed when it was written; of the store
    only the log is read for it.
    """
    newest = past[-1]
    told = f"Dagster was not told of it when it was written ({moment(newest.at)} UTC)"
    entries = {
        "history": table(LOG, _log(past), ALONE),
        "version": newest.version,
        "production": newest.production or "none",
        SIGNED: newest.signed,
        LOG_ENTRIES: len(past),
    }
    result = Result(str(key), None, status=status_of(past, newest))
    summary = Summary(_became(newest), told, next_step(result))
    page = Page(summary, entries)
    return page.metadata(_asked(key, newest.version))


def _became(done: ReleaseEntry) -> str:
    """Say what became of a version by an entry of the log."""
    if done.action == RELEASE:
        served = done.production == done.version
        return f"Version {done.version} {'is in production' if served else 'waits for approval'}"
    if done.production is None:
        return f"No version is in production: {done.by} took version {done.version} out"
    how = f"went back to it from version {done.from_version}" if done.action == ROLLBACK else "put it there"
    return f"Version {done.version} is in production: {done.by} {how}"


def release_assets(graph: Graph) -> list[dg.AssetsDefinition]:
    judged, said = described(release_evaluation.judge_release), described(release_step.release)
    return [
        stage_asset(graph, export_stage.STAGE, group=GROUP, kinds={"huggingface"}, describe=_model_export),
        variant_asset(
            graph,
            release_evaluation.STEP,
            _release_evaluation,
            description=judged,
            group=GROUP,
            kinds={"huggingface"},
        ),
        variant_asset(graph, release_step.STEP, _release, description=said, group=GROUP, kinds={"json"}),
    ]
