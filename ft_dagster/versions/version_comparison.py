"""Compares two versions on one page: what differs in what they were made of, and in what came out.

Read from manifests and evidence alone. Of rows it says how many, never which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.data.rows.row_changes import identities_now
from ft_dagster.errors import UserError
from ft_dagster.report.charts.report_charts import grouped_intervals, line_chart
from ft_dagster.report.figures import count, counted, moment, size
from ft_dagster.report.pages.html import HtmlTable, Report, Section, VerdictBox, as_html
from ft_dagster.report.tables.comparison import (
    differing_rows,
    flat,
    joined_rows,
    overlaid,
    pair_groups,
    rule_pairs,
    score_headers,
    score_rows,
    split_headers,
    split_rows,
)
from ft_dagster.report.tables.lineage_rows import DIGITS, MadeRow, artifact_rows
from ft_dagster.report.tables.mixture import general_share
from ft_dagster.report.training import NATS, STEPS, figure_rows, losses
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantSpec
from ft_dagster.stage_entries import (
    BASE_MODEL,
    EVALUATION,
    FINE_TUNED_MODEL,
    MODEL_EXPORT,
    TASK_DATASET,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
)
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.versions.version_files import NamedVersion, VersionFiles, open_version

PARTS = ("spec.", "task.spec.", "general.spec.", "judged_by.")  # of a manifest, with fields of a declaration
PLANNED = ("method", "training", "steps", "ranks", "on")  # of a plan's figures


class _Two(NamedTuple):
    """Holds both sides of a comparison. `names`: what the sides are called in tables and charts."""

    left: VersionFiles
    right: VersionFiles

    @property
    def names(self) -> tuple[str, str]:
        same = self.left.key == self.right.key
        left, right = (one.short_name if same else one.name for one in self)
        return left, right


def version_comparison(settings: Settings, left: NamedVersion, right: NamedVersion) -> str:
    """Return the page as HTML; `left` is what `right` is held against. Raises UserError: one of them is not
    there or cannot be read, or both are the same.
    """
    two = _Two(*(open_version(settings, each.key, each.version) for each in (left, right)))
    if two.left.name == two.right.name:
        fix = "Name another version: `ft-dagster history` lists them"
        raise UserError("there are not two versions", field="--against", value=two.left.name, fix=fix)
    words = (
        "This page shows what differs, from the declaration to the verdict. It counts rows and shows none."
    )
    boxes = [VerdictBox.of(one.verdict, on=name) for one, name in zip(two, two.names, strict=True)]
    sections = [_sides(two), _declared(two), _data(two), _settings(two), _training(two), _scores(two)]
    return as_html(Report(f"{two.left.name} beside {two.names[1]}", words, (), boxes, sections))


def _sides(two: _Two) -> Section:
    rows = joined_rows(*(list(_about(one).items()) for one in two))
    return Section("The two", tables=[HtmlTable("what they are", ("", *two.names), rows)])


def _about(one: VersionFiles) -> dict[str, str]:
    tuned, entry = one.artifact(FINE_TUNED_MODEL.name), one.entry
    said = {
        "trained (UTC)": moment(str(tuned.predicate["created"])),
        "weights": tuned.digest[:DIGITS],
        "base": one.artifact(BASE_MODEL.name).digest[:DIGITS],
    }
    if entry is None:
        return {**said, "released (UTC)": "no: its newest evaluation is shown"}
    released = {"released (UTC)": f"{moment(entry.at)} by {entry.by}", "run": (entry.run_id or "unknown")[:8]}
    export = {
        "export": f"{entry.format}, {size(one.artifact(MODEL_EXPORT.name).size)}, {entry.export[:DIGITS]}"
    }
    return {**said, **released, **export}


def _declared(two: _Two) -> Section:
    left, right = map(declared_fields, two)
    rows = differing_rows(left, right)
    return Section(
        "Declaration",
        [_how_many(len(rows), len({*left, *right}), "declared field")],
        tables=[HtmlTable("fields that differ", ("field", *two.names), rows)],
    )


def declared_fields(one: VersionFiles) -> dict[str, Any]:
    """Return every field of the declaration that shaped a version, by its name there, as the manifests have
    it.
    """
    found = {}
    for artifact in one.made.artifacts.values():
        for name, value in flat(artifact.spec).items():
            part = next((part for part in PARTS if name.startswith(part)), "")
            field = name.removeprefix(part)
            if field.partition(".")[0] in VariantSpec.model_fields:
                found[field] = value
    return found


def _data(two: _Two) -> Section:
    said, tables = [], [HtmlTable("artifacts", ("what", *two.names, ""), list(_artifacts(two)))]
    try:
        rows = split_rows(*map(_identities, two)) if _differ(two, TASK_DATASET.name) else []
        said.append("" if rows else "The rows are the same.")
        tables.append(HtmlTable("rows, by their content", split_headers(two.names), rows))
    except UserError as error:
        said.append(f"Their rows cannot be compared: {error}")
    files = [{each.file: str(each.digest)[:DIGITS] for each in one.made.files} for one in two]
    tables.append(HtmlTable("files that differ", ("file", *two.names), differing_rows(*files)))
    mixed = [_mixture(one) for one in two]
    tables.append(HtmlTable("what was trained on", ("", *two.names), joined_rows(*mixed)))
    return Section("Data", [line for line in said if line], tables=tables)


def _artifacts(two: _Two) -> Iterator[list[str | None]]:
    sides = [{row.what: row for row in artifact_rows(one.made.artifacts)} for one in two]
    for stage in dict.fromkeys([*sides[0], *sides[1]]):
        left, right = (side.get(stage) for side in sides)
        same = left is not None and right is not None and left.digest == right.digest
        yield [stage, _shown(left), _shown(right), "same" if same else "other"]


def _shown(row: MadeRow | None) -> str | None:
    return None if row is None else ", ".join(filter(None, (row.which, row.digest)))


def _differ(two: _Two, stage: str) -> bool:
    return two.left.artifact(stage).digest != two.right.artifact(stage).digest


def _identities(one: VersionFiles) -> dict[str, set[bytes]]:
    """Return the identities of the rows of each split of its data set. Raises UserError where they are not
    there any more.
    """
    return identities_now(one.payload(TASK_DATASET.name))


def _mixture(one: VersionFiles) -> list[tuple[str, str]]:
    mixed = MixtureFigures.of(one.artifact(TRAINING_MIXTURE.name))
    train = mixed.train
    return [
        ("examples", count(train.examples)),
        ("tokens trained on", count(train.trained_tokens)),
        *((f"of {name}", count(part.trained_tokens)) for name, part in train.by_source.items()),
        ("general share", general_share(mixed)),
        ("examples that were cut", count(sum(part.truncated for part in train.by_source.values()))),
    ]


def _settings(two: _Two) -> Section:
    left, right = map(_set, two)
    rows = differing_rows(left, right)
    return Section(
        "Settings",
        [_how_many(len(rows), len({*left, *right}), "setting")],
        tables=[HtmlTable("what differs in plan, code and libraries", ("setting", *two.names), rows)],
    )


def _set(one: VersionFiles) -> dict[str, Any]:
    plan, tuned = one.figures(TRAINING_PLAN.name), one.artifact(FINE_TUNED_MODEL.name).predicate
    libraries: Mapping[str, Any] = tuned["environment"].get("libraries", {})
    around = {"seed": tuned["seed"], "code": tuned["code"]["sha256"][:DIGITS], "libraries": dict(libraries)}
    return flat({**{name: plan.get(name) for name in PLANNED}, **around})


def _training(two: _Two) -> Section:
    said, charts = list[str](), list[str]()
    try:
        left, right = (losses(one.training_log()) for one in two)
        charts += [
            line_chart(lines, STEPS, f"{what}, {NATS}") for what, lines in overlaid(left, right, two.names)
        ]
    except UserError as error:
        said.append(f"Their curves cannot be drawn: {error}")
    figures = [figure_rows(TrainingFigures.of(one.artifact(FINE_TUNED_MODEL.name))) for one in two]
    table = HtmlTable("figures", ("figure", *two.names), joined_rows(*figures))
    return Section("Training", said, "".join(charts), [table])


def _scores(two: _Two) -> Section:
    pairs = rule_pairs(two.left.verdict.rules, two.right.verdict.rules)
    other = differing_rows(*map(_asked, two))
    said = "Asked the same questions." if not other else "Not all questions are the same: compare with care."
    return Section(
        "Scores",
        [said, "Each change against its base with its interval; better is to the right, the margin in red."],
        grouped_intervals(pair_groups(pairs, two.names)),
        [
            HtmlTable("rules of the gates", score_headers(two.names), score_rows(pairs)),
            HtmlTable("questions that differ", ("asked of", *two.names), other),
        ],
    )


def _asked(one: VersionFiles) -> dict[str, str]:
    """Return what was asked, each with the digest of its questions."""
    judged = one.artifact(EVALUATION.name)
    own = {name: digest for name, digest in judged.inputs.items() if name.startswith(("task.", "general."))}
    tasks = {
        name.partition(".tasks.")[2]: str(digest)
        for name, digest in flat(judged.spec).items()
        if ".tasks." in name
    }
    return {name: digest[:DIGITS] for name, digest in {**own, **tasks}.items()}


def _how_many(differ: int, all: int, what: str) -> str:
    number, verb = count(differ) if differ else "None", "differs" if differ == 1 else "differ"
    return f"{number} of {counted(all, what)} {verb}."
