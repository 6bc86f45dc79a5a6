"""Reports a version from its files to its certificate, on one page, read from the store alone.

Written once for each version and kept beside the release log (`reports/000001.html`); what it says is all in
manifests and evidence, so that it can be made again at any time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.data.rows.dataset_figures import DatasetFigures
from ft_dagster.data.rows.dataset_io import paths_of
from ft_dagster.errors import UserError
from ft_dagster.evaluation.own_checks import FIGURE
from ft_dagster.evaluation.skills import skills
from ft_dagster.export.served import command_of
from ft_dagster.gate.memorization.memorization import memorization_lines
from ft_dagster.gate.prompted import Prompted
from ft_dagster.gate.samples import Sample, read_answers, read_samples
from ft_dagster.gate.verdict_words import verdict_sentence
from ft_dagster.lineage.certificate import Certificate
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.served import aliases
from ft_dagster.lineage.serving import may_serve_words
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.planning.estimate import Estimate
from ft_dagster.planning.looks_left import asked_of_reserve
from ft_dagster.report.cards import without_header
from ft_dagster.report.changed_answers import CHANGED
from ft_dagster.report.charts.report_charts import bar_chart, course_chart, interval_chart, line_chart
from ft_dagster.report.charts.svg import Bar
from ft_dagster.report.figures import HISTORY, history_rows, moment, size
from ft_dagster.report.pages.html import HtmlTable, Report, Section, VerdictBox, as_html
from ft_dagster.report.sentences.ancestors import FIGURE as ANCESTORS
from ft_dagster.report.sentences.ancestors import ancestor_lines
from ft_dagster.report.sentences.base_name import base_name
from ft_dagster.report.sentences.certificates import CERTIFICATE, certificate_rows
from ft_dagster.report.sentences.next_step import next_step
from ft_dagster.report.sentences.prompted import PROMPTED, Beside, prompted_rows
from ft_dagster.report.sentences.result import result_sentence
from ft_dagster.report.sentences.summaries import (
    RULES,
    Summary,
    dataset_summary,
    mixture_summary,
    plan_summary,
    rules_rows,
    training_summary,
)
from ft_dagster.report.tables.lineage_rows import DIGITS, MADE_OF, made_rows
from ft_dagster.report.tables.mixture import source_bars, source_shares
from ft_dagster.report.tables.recommendation import AGAINST, COLUMNS, cost_rows, ranking_rows
from ft_dagster.report.tables.refusals import (
    EXAMPLES,
    JUDGED,
    REFUSALS,
    example_rows,
    matcher_sentence,
    refusal_rows,
)
from ft_dagster.report.tables.skills import LOST, SKILLS, lost_rows, skill_rows
from ft_dagster.report.training import (
    APART,
    ESTIMATED,
    FIGURES,
    NATS,
    QUESTIONS,
    RIGHT,
    STEPS,
    VALIDATIONS,
    asked,
    course_of,
    estimated_rows,
    figure_rows,
    smoothed,
)
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey, VariantSpec
from ft_dagster.stage_entries import (
    BASE_EVALUATION,
    BASE_MODEL,
    EVALUATION,
    FINE_TUNED_MODEL,
    MODEL_EXPORT,
    TASK_DATASET,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
)
from ft_dagster.stages import training_mixture, training_plan
from ft_dagster.stages.judging.may_serve import Today, findings_in
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.versions.refusals_judged import judged_rows
from ft_dagster.versions.results import frozen_spec, result_of, rows_may_be_shown, shown_answers
from ft_dagster.versions.version_course import version_course
from ft_dagster.versions.version_files import UNREADABLE, VersionFiles, open_version, why_not
from ft_dagster.workspace.past import answers_with_examples

FOLDER = "reports"


def report_path(prefix: str, version: int) -> str:
    """Return the path at which the report of a version is kept in the store."""
    return f"{prefix}/{FOLDER}/{version:06d}.html"


def version_report(
    settings: Settings, key: VariantKey, version: int | None = None, following: str = ""
) -> str:
    """Return the report of a version (None: the newest; of a variant without any, of its newest evaluation)
    as HTML.

    `following`: what a person does next, where more is known than what the store has of the version. Raises
    UserError where there is nothing to report on.
    """
    return _html(settings, open_version(settings, key, version), following)


def keep_report(settings: Settings, key: VariantKey, version: int) -> str:
    """Write the report of a version, unless it is kept already; returns its path in the store, or, since a
    release stands without it, why none could be made. Raises what came of a storage out of reach.
    """
    store, path = settings.open_store(), report_path(key.prefix, version)
    try:
        if not store.exists(path):
            store.write(path, version_report(settings, key, version).encode())
    except UNREADABLE as error:
        return why_not(error)
    return path


def _html(settings: Settings, stored: VersionFiles, following: str) -> str:
    spec, verdict = frozen_spec(stored.store, stored.key), stored.verdict
    evaluation = stored.artifact(EVALUATION.name)
    result = result_of(settings, stored.key, evaluation, stored.past, spec, entry=stored.entry)
    base = stored.made.artifacts.get(BASE_MODEL.name)
    lead = [
        *([] if base is None else [f"Base: {base_name(stored.store, base)}."]),
        f"{verdict_sentence(verdict)}.",
        f"Next: {following or next_step(result)}.",
    ]
    figures = stored.figures(EVALUATION.name)
    sections = [
        *_before_and_after(stored, spec),
        _rules(verdict, asked_of_reserve(figures), ancestor_lines(figures.get(ANCESTORS, ()))),
        *_refusals(settings, stored, spec),
        _run(stored),
        *version_course(stored),
        *_skills(stored, spec),
        *_memorization(stored),
        *_data(stored, spec),
        _plan(stored),
        _made_of(settings, stored, spec),
        *_version(stored),
    ]
    box = VerdictBox.of(verdict)._replace(sentence=result_sentence(result))
    return as_html(Report(stored.name, spec.description, (), [box], sections, lead))


def _made_of(settings: Settings, stored: VersionFiles, spec: VariantSpec) -> Section:
    made = made_rows(stored.made.files, stored.made.artifacts, stored.entry)
    caption = "from the file to the version; digests by their first digits"
    facts = HtmlTable("the version", ("name", "value"), _facts(settings, stored, spec))
    return Section("Made of", tables=[facts, HtmlTable(caption, MADE_OF, made)])


def _facts(settings: Settings, stored: VersionFiles, spec: VariantSpec) -> list[tuple[str, str]]:
    tuned, entry = stored.artifact(FINE_TUNED_MODEL.name), stored.entry
    facts = [
        ("owners", ", ".join(spec.owners)),
        ("objective", spec.objective),
        ("weights", tuned.digest[:DIGITS]),
    ]
    if entry is None:
        return [*facts, ("released", "no: its newest evaluation is shown")]
    served = aliases(stored.past)["production"]
    served_words = "none" if served is None else f"version {served}"
    return [
        *facts,
        ("export", entry.export[:DIGITS]),
        ("released", f"{entry.at} by {entry.by}, {entry.signed}"),
        ("run", entry.run_id or "unknown"),
        ("in production", f"{served_words} by the log up to {moment(stored.past[-1].at)} UTC"),
        ("may be served", _may_serve(settings, stored, entry)),
        ("code", tuned.predicate["code"]["sha256"][:DIGITS]),
        ("seed", str(tuned.predicate["seed"])),
    ]


def _may_serve(settings: Settings, stored: VersionFiles, entry: ReleaseEntry) -> str:
    """Say whether a version may be served on the day of the report."""
    try:
        return may_serve_words(findings_in(Today.of(settings, stored.key), stored.past, entry))
    except UNREADABLE as error:
        return why_not(error)


def _said(summary: Summary) -> list[str]:
    return [f"{summary.what}.", f"{summary.good}."]


def _data(stored: VersionFiles, spec: VariantSpec) -> list[Section]:
    figures, mixed = (
        DatasetFigures.of(stored.artifact(TASK_DATASET.name)),
        MixtureFigures.of(stored.artifact(TRAINING_MIXTURE.name)),
    )
    dropped = HtmlTable("rows that were dropped", ("reason", "rows"), list(figures.dropped.items()))
    return [
        Section("Data", _said(dataset_summary(figures)), tables=[dropped]),
        Section(
            "Mixture",
            _said(mixture_summary(mixed, mixed.warnings)),
            bar_chart(source_bars(mixed, paths_of(spec)), f"{source_shares(mixed)[0]}, by source"),
            [HtmlTable("the first rows as the model read them", ("row", "is", "text"), _read(stored, spec))],
        ),
    ]


def _read(stored: VersionFiles, spec: VariantSpec) -> list[list[Any]]:
    """Return the first rows of the mixture, piece by piece; none where rows may not be shown, nor of an
    older mixture.
    """
    file = stored.evidence(TRAINING_MIXTURE.name) / training_mixture.SHOWN
    if not rows_may_be_shown(stored.made.artifacts, spec) or not file.is_file():
        return []
    rows = json.loads(file.read_text("utf-8"))["rows"]
    return [
        [number, part, text]
        for number, row in enumerate(rows, 1)
        for part, text in (*row["pieces"], *([("read", row["read"])] if row["read"] else ()))
    ]


def _plan(stored: VersionFiles) -> Section:
    file = stored.evidence(TRAINING_PLAN.name) / training_plan.ESTIMATE
    estimate = Estimate.from_json(json.loads(file.read_text("utf-8")), file=file)
    held = {row.method: estimate.memory_bytes[row.method].total for row in estimate.ranking}
    device = estimate.device_bytes
    reasons = [
        [row.field, json.dumps(row.value), row.origin, row.reason] for row in estimate.plan.reasons
    ]  # fmt: skip
    return Section(
        "Plan",
        [*_said(plan_summary(estimate, estimate.warnings)), *estimate.warnings],
        bar_chart(
            [Bar(method, held, size(held)) for method, held in held.items()],
            "memory on one device, by method" + (f"; it has {size(device)}" if device else ""),
        ),
        [
            HtmlTable("the methods, ranked", (*COLUMNS, AGAINST), ranking_rows(estimate)),
            HtmlTable("each value with its reason", ("field", "value", "from", "why"), reasons),
            HtmlTable(f"what it costs on {estimate.on}", ("what", "figure"), cost_rows(estimate)),
        ],
    )


def _run(stored: VersionFiles) -> Section:
    figures, evidence = (
        TrainingFigures.of(stored.artifact(FINE_TUNED_MODEL.name)),
        stored.evidence(FINE_TUNED_MODEL.name),
    )
    ranks = _ranks(evidence)
    log = stored.training_log()
    course = course_of(log, figures)
    charts = line_chart(smoothed(log), STEPS, NATS, VALIDATIONS) + course_chart(course)
    charts += line_chart(asked(log), STEPS, RIGHT, (QUESTIONS,))
    if ranks:
        ranked = f"effective rank of the update{APART if figures.expert_matrices else ''}"
        charts += line_chart(ranks, "block of the model", ranked)
    return Section(
        "Training",
        [*_said(training_summary(figures)), *([f"{course.sentence}."] if course else []), *figures.advice],
        charts,
        [
            HtmlTable("figures", FIGURES, figure_rows(figures)),
            HtmlTable("estimated and actual", ESTIMATED, estimated_rows(figures)),
        ],
    )


def _ranks(evidence: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the effective rank of each update by the kind of its layer, in the order of the blocks."""
    file = evidence / "spectrum.json"
    kinds: dict[str, list[tuple[float, float]]] = {}
    for layer in json.loads(file.read_text("utf-8"))["layers"] if file.exists() else ():
        known = kinds.setdefault(layer["name"].rpartition(".")[2], [])
        known.append((float(len(known)), float(layer.get("effective_rank") or "nan")))
    return kinds


def _before_and_after(stored: VersionFiles, spec: VariantSpec) -> list[Section]:
    """Return a few answers of base and tuned; none where no task of its own was judged."""
    changed = shown_answers(stored.store, stored.cache, stored.made.artifacts, spec)
    if changed is None:
        return []
    table = HtmlTable("answers before and after", CHANGED, changed.rows)
    return [Section("Before and after", [f"{changed.sentence}."], tables=[table])]


def _rules(verdict: Verdict, dealt: str = "", ancestors: Sequence[str] = ()) -> Section:
    """Show the rules. `dealt`: which part of the test split was asked, in words; "" where all of it may be.
    `ancestors`: what of the questions they were trained on.
    """
    said = ["Each change against the base with its interval; better is to the right, the margin in red."]
    said += [f"{dealt.capitalize()}."] if dealt else []
    said += [f"{line}." for line in ancestors]
    table = HtmlTable("rules of the gate", RULES, rules_rows(verdict.rules))
    return Section("Rules", said, interval_chart(verdict.rules), [table])


def _refusals(settings: Settings, stored: VersionFiles, spec: VariantSpec) -> list[Section]:
    """Return what base and tuned model refused; none where that is not judged."""
    figures = stored.figures(EVALUATION.name)
    if not (rows := refusal_rows(figures)):
        return []
    tables = [
        HtmlTable("refused before and now", REFUSALS, rows),
        HtmlTable("a few prompts, those whose answer changed first", EXAMPLES, example_rows(figures)),
    ]
    said, evaluation = [f"{matcher_sentence(figures)}."], stored.artifact(EVALUATION.name)
    try:
        judged = judged_rows(settings, stored.key, spec, evaluation, stored.payload(EVALUATION.name))
    except UserError as error:
        judged, said = [], [*said, f"Judgements of another model are not shown: {error}"]
    if judged:
        tables.append(HtmlTable("what another model judged, which decides nothing", JUDGED, judged))
    return [Section("Refusals", said, tables=tables)]


def _skills(stored: VersionFiles, spec: VariantSpec) -> list[Section]:
    if not stored.has(BASE_EVALUATION.name):
        return []
    base, tuned = (read_samples(stored.payload(stage)) for stage in (BASE_EVALUATION.name, EVALUATION.name))
    found = skills(base, tuned, stored.figures(EVALUATION.name).get(FIGURE))
    answers = read_answers(stored.evidence(EVALUATION.name))
    lost = lost_rows(found, answers, own_rows=rows_may_be_shown(stored.made.artifacts, spec))
    tables = [
        HtmlTable("right before, and now", SKILLS, skill_rows(found)),
        HtmlTable("questions right before and wrong now", LOST, lost),
        HtmlTable("the base with examples in its prompt", PROMPTED, _with_examples(stored, tuned)),
    ]
    return [Section("Learned and forgotten", tables=tables)]


def _memorization(stored: VersionFiles) -> list[Section]:
    lines = memorization_lines(stored.figures(EVALUATION.name))
    return [Section("Memorization", [f"{line}." for line in lines])] if lines else []


def _with_examples(stored: VersionFiles, tuned: list[Sample]) -> list[list[Any]]:
    """Return what the base reaches with examples in its prompt, on the test split beside the tuned model."""
    base, dataset = stored.artifact(BASE_MODEL.name), stored.artifact(TASK_DATASET.name)
    found = answers_with_examples(stored.store, stored.key.prefix, base, dataset)
    sides = [
        Beside.of(
            Prompted.from_json(each.figures),
            read_samples(each.folder(stored.store, stored.cache) / "payload"),
            tuned,
        )
        for each in found
    ]
    return prompted_rows(sides)


def _version(stored: VersionFiles) -> list[Section]:
    """Return the export with its certificate, the log, the card; none of what was not released."""
    entry = stored.entry
    if entry is None:
        return []
    export, evidence = stored.artifact(MODEL_EXPORT.name), stored.evidence(MODEL_EXPORT.name)
    certificate = Certificate.read(evidence / "certificate.json")
    serve = command_of(stored.payload(MODEL_EXPORT.name), entry.format, str(stored.key))
    files = [
        [file["path"], size(file["size"]), file["sha256"][:DIGITS]] for file in export.predicate["payload"]
    ]
    served = f"Served by: {serve}" if serve else "Served with PEFT: see the card."
    tables = [
        HtmlTable("certificate", CERTIFICATE, certificate_rows(certificate.figures)),
        HtmlTable("files", ("file", "size", "sha256"), files),
        HtmlTable("release log", HISTORY, history_rows(stored.past)),
    ]
    return [
        Section("Version", [f"{entry.format} of {size(export.size)}.", served], tables=tables),
        Section("Card", verbatim=without_header((evidence / "README.md").read_text("utf-8"))),
    ]  # fmt: skip
