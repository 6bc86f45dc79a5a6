"""Follows the descent of a variant: what each released version scored, task by task, through the releases
that it starts from.

Read from release logs and manifests alone, which stay when retention removes what they speak of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ft_dagster.gate.judged_by import Opponent
from ft_dagster.gate.power import OWN_NAMES
from ft_dagster.gate.samples import Role
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.graph import StoredGraph, input_of, made_in, released_evaluation
from ft_dagster.lineage.verdict import Rule, RuleName, Verdict
from ft_dagster.models.derived import bases_beneath, started_from
from ft_dagster.provenance.manifest import variant_of
from ft_dagster.report.charts.report_charts import Point, descent_chart
from ft_dagster.report.figures import change, is_share, moment, score
from ft_dagster.report.pages.html import HtmlTable, Section
from ft_dagster.report.sentences.result import metric_words
from ft_dagster.spec.variant import GatesSpec
from ft_dagster.stage_entries import BASE_MODEL, EVALUATION, FINE_TUNED_MODEL, MODEL_EXPORT
from ft_dagster.store import Artifact, Store
from ft_dagster.versions.version_files import UNREADABLE, VersionFiles, told
from ft_dagster.workspace.references import reference_in, reference_of_root, released_of

COURSE = ("task", "version", "released (UTC)", "score", "interval", "base → tuned", "questions")
LEAST = 2  # versions that make a course
ROLES: dict[RuleName, Role] = {
    "task": "task",
    "general_benchmark": "general",
    "general_loss": "general_loss",
}


class Scored(NamedTuple):
    """Holds a release of the variant below `prefix` and its rule of a task."""

    prefix: str
    entry: ReleaseEntry
    rule: Rule

    @property
    def reach(self) -> tuple[float, float]:
        """Return the interval of its score: that of the change from its base, seen from the base."""
        low, high = self.rule.interval
        return self.rule.base + low, self.rule.base + high


class Course(NamedTuple):
    """Follows a task, judged by one metric, over versions. `reference`: which of them is the reference, None
    where none is; `margin`: the largest fall from it (of a loss, rise).
    """

    task: str
    metric: str
    scored: tuple[Scored, ...]
    reference: int | None
    margin: float | None

    @property
    def limit(self) -> float | None:
        """Return the worst score that is within the margin."""
        if self.reference is None or self.margin is None:
            return None
        rule = self.scored[self.reference].rule
        return rule.tuned + (-self.margin if rule.higher_is_better else self.margin)

    def to_json(self) -> dict[str, object]:
        versions = [
            {
                "variant": variant_of(one.prefix),
                "version": one.entry.version,
                "released": one.entry.at,
                "score": one.rule.tuned,
                "interval": list(one.reach),
                "questions": one.rule.questions,
                "reference": at == self.reference,
            }
            for at, one in enumerate(self.scored)
        ]
        said = {"task": self.task, "metric": self.metric, "margin": self.margin, "limit": self.limit}
        return {**said, "versions": versions}


def courses(store: Store, prefix: str) -> list[Course]:
    """Return the course of each task that the newest version of a variant was judged by, as far as two
    versions of the descent were. Raises what came of a storage out of reach.
    """
    own = released_of(store, prefix)
    newest = _judged(store, prefix, own[-1]) if own else None
    if newest is None:
        return []
    line = [*_before(store, newest), *((prefix, entry) for entry in own)]
    rules = {id(entry): _rules(_judged(store, of, entry)) for of, entry in line}
    gates = GatesSpec.model_validate(newest.spec.get("spec", {}).get("gates", {}))
    found = []
    for name, last in rules[id(line[-1][1])].items():
        known = [(of, entry) for of, entry in line if name in rules[id(entry)]]
        if last.task in OWN_NAMES:  # of other rows in each variant
            known = [(of, entry) for of, entry in known if of == prefix]
        scored = [Scored(of, entry, rules[id(entry)][name]) for of, entry in known]
        if len(scored) >= LEAST:
            found.append(_course(store, last, scored, gates, own))
    return found


def _course(
    store: Store, last: Rule, scored: Sequence[Scored], gates: GatesSpec, own: Sequence[ReleaseEntry]
) -> Course:
    """Return a course with its reference: that of the root of the descent, else the variant's own."""
    root = scored[0].prefix
    if root != scored[-1].prefix and last.rule != "task":
        reference = reference_of_root(store, root, released_of(store, root))
    else:
        root, reference = scored[-1].prefix, reference_in(own, gates) if gates.has_reference else None
    named = (root, None if reference is None else reference.version)
    at = next((at for at, one in enumerate(scored) if (one.prefix, one.entry.version) == named), None)
    key = (ROLES[last.rule], last.task)
    allowed = Opponent(against="reference").allowed(key, last.metric, gates) if gates.has_reference else None
    return Course(last.task, last.metric, tuple(scored), at, None if allowed is None else allowed.margin)


def _before(store: Store, judged: Artifact) -> list[tuple[str, ReleaseEntry]]:
    """Return the releases that a version descends from in other variants, the first of them first."""
    line = list[tuple[str, ReleaseEntry]]()
    base = input_of(StoredGraph(store), judged, BASE_MODEL.name)
    try:
        for each in () if base is None else bases_beneath(store, base):
            parent = started_from(each)
            if parent and (prefix := parent["places"][MODEL_EXPORT.name][0]) != judged.place.prefix:
                until = [e for e in released_of(store, prefix) if e.version <= parent["version"]]
                line = [*((prefix, entry) for entry in until), *line]
    except UNREADABLE as error:
        told(error)  # raises where the storage is out of reach
    return line


def _judged(store: Store, prefix: str, entry: ReleaseEntry) -> Artifact | None:
    """Return the evaluation of a release, also one that retention removed; None where it is not told."""
    try:
        weights = {FINE_TUNED_MODEL.name: entry.weights}
        gone = (
            one for one in made_in(store, prefix, EVALUATION.name, weights) if one.digest == entry.evaluation
        )
        return released_evaluation(store, prefix, entry) or next(gone, None)
    except UNREADABLE as error:
        told(error)
        return None


def _rules(judged: Artifact | None) -> Mapping[tuple[str, str, str], Rule]:
    """Return the rules of an evaluation whose tasks have a course, by what they are of."""
    rules = () if judged is None else Verdict.from_json(judged.figures["verdict"]).rules
    return {(rule.rule, rule.task, rule.metric): rule for rule in rules if rule.rule in ROLES}


def version_course(stored: VersionFiles) -> list[Section]:
    """Return the section of the descent; none where fewer than two versions were judged alike."""
    found = courses(stored.store, stored.key.prefix)
    if not found:
        return []
    said = (
        "Each released version on the questions that it was asked, through the releases that it starts from: "
        "its score, with the interval of its change from its base. The reference is orange; later versions "
        "are held against it, and the red line is the largest fall from it that passes."
    )
    charts = "".join(map(_chart, found))
    rows = [row for course in found for row in course_rows(course)]
    return [Section("Versions over time", [said], charts, [HtmlTable("versions", COURSE, rows)])]


def course_rows(course: Course) -> Iterator[list[Any]]:
    """Yield rows for the columns COURSE."""
    own = course.scored[-1].prefix
    for at, one in enumerate(course.scored):
        rule, mark = one.rule, " (reference)" if at == course.reference else ""
        low, high = (score(rule.metric, end) for end in one.reach)
        yield [
            f"{course.task} {metric_words(course.metric)}",
            f"{_version(one, own)}{mark}",
            moment(one.entry.at),
            score(rule.metric, rule.tuned),
            f"{low} to {high}",
            change(rule.metric, rule.base, rule.tuned),
            rule.questions,
        ]


def _version(one: Scored, own: str) -> str:
    return f"{'' if one.prefix == own else f'{variant_of(one.prefix)} '}{one.entry.version}"


def _chart(course: Course) -> str:
    own, metric = course.scored[-1].prefix, course.metric
    sides = [side for one in course.scored for side in (one.rule.base, one.rule.tuned)]
    times, unit = (100.0, "%") if is_share(metric, sides) else (1.0, _unit(metric))
    points = [
        Point(_version(one, own), times * one.rule.tuned, (times * one.reach[0], times * one.reach[1]))
        for one in course.scored
    ]
    limit = None if course.limit is None else times * course.limit
    return descent_chart(points, course.reference, limit, f"{course.task} {metric_words(metric)}, {unit}")


def _unit(metric: str) -> str:
    return "nats a token" if metric.endswith("loss") else "score"
