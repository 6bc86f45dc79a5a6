"""Follows the versions of a variant over time: what each scored at the task by which the newest is judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ft_dagster.lineage.entry import RELEASE, ReleaseEntry
from ft_dagster.lineage.graph import released_evaluation
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.report.charts.report_charts import line_chart
from ft_dagster.report.figures import change, is_share, moment
from ft_dagster.report.pages.html import HtmlTable, Section
from ft_dagster.report.sentences.result import metric_words
from ft_dagster.versions.version_files import UNREADABLE, VersionFiles, told

COURSE = ("version", "released (UTC)", "base → tuned", "questions")
LEAST = 2  # versions that make a course


class _Scored(NamedTuple):
    """Holds a release and the rule of its own task."""

    entry: ReleaseEntry
    rule: Rule


def version_course(stored: VersionFiles) -> list[Section]:
    """Base and tuned model over the versions that were judged by the newest one's task and metric; none where
    fewer than two were.
    """
    releases = [entry for entry in stored.past if entry.action == RELEASE]
    scored = [one for entry in releases for one in _scored(stored, entry)] if len(releases) >= LEAST else []
    alike = [one for one in scored if _asked(one) == _asked(scored[-1])]
    if len(alike) < LEAST:
        return []
    return [_section(alike, left_out=len(releases) - len(alike))]


def _asked(one: _Scored) -> tuple[str, str]:
    return one.rule.task, one.rule.metric


def _scored(stored: VersionFiles, entry: ReleaseEntry) -> list[_Scored]:
    """Nothing where its evaluation is gone or damaged, or no task of its own was judged."""
    try:
        judged = released_evaluation(stored.store, stored.key.prefix, entry)
        rules = () if judged is None else Verdict.from_json(judged.figures["verdict"]).rules
    except UNREADABLE as error:
        told(error)  # raises where the storage is out of reach
        return []
    return [_Scored(entry, rule) for rule in rules if rule.rule == "task"][:1]


def _section(scored: Sequence[_Scored], left_out: int) -> Section:
    rule = scored[-1].rule
    sides = [side for one in scored for side in (one.rule.base, one.rule.tuned)]
    times, unit = (100.0, "%") if is_share(rule.metric, sides) else (1.0, _unit(rule.metric))
    lines = {
        name: [(float(one.entry.version), times * getattr(one.rule, name)) for one in scored]
        for name in ("tuned", "base")
    }
    chart = line_chart(lines, "version", f"{metric_words(rule.metric)}, {unit}", lines)
    rows = [
        [
            one.entry.version,
            moment(one.entry.at),
            change(one.rule.metric, one.rule.base, one.rule.tuned),
            one.rule.questions,
        ]
        for one in scored
    ]
    said = ["Each version at its own task, on the questions that it was asked."]
    if left_out:
        said.append(f"{left_out} more were judged by another task or metric, or their evaluation is gone.")
    return Section("Versions over time", said, chart, [HtmlTable("versions", COURSE, rows)])


def _unit(metric: str) -> str:
    return "nats a token" if metric.endswith("loss") else "score"
