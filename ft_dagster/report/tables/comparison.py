"""Compares two of a kind, as rows of tables: what differs, and how much of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ft_dagster.gate.rule_figures import difference
from ft_dagster.gate.verdict_words import rule_word
from ft_dagster.lineage.verdict import Rule
from ft_dagster.report.charts.report_charts import Lines, RuleOf
from ft_dagster.report.figures import ABSENT, change

Flat = Mapping[str, Any]  # name -> value
Splits = Mapping[str, Collection[bytes]]  # of a data set -> identities of rows


def flat(tree: Any, name: str = "") -> dict[str, object]:
    """Return values by their path: {"a": {"b": [{"c": 1}]}} -> {"a.b[0].c": 1}. What is empty, and a list of
    plain values, is one value.
    """
    if isinstance(tree, Mapping) and tree:
        parts = {f"{name}.{part}" if name else str(part): value for part, value in tree.items()}
    elif isinstance(tree, list | tuple) and any(isinstance(value, Mapping) for value in tree):
        parts = {f"{name}[{number}]": value for number, value in enumerate(tree)}
    else:
        return {name: tree}
    return {path: value for part, below in parts.items() for path, value in flat(below, part).items()}


def differing_rows(left: Flat, right: Flat) -> list[list[Any]]:
    """Return name, value on the left, value on the right of all that are not equal; a dash for what is not
    there.
    """
    names = sorted({*left, *right})
    return [
        [name, _value(left.get(name)), _value(right.get(name))]
        for name in names
        if left.get(name) != right.get(name)
    ]


def joined_rows(left: Sequence[Sequence[Any]], right: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Join rows of two tables by their first cell: it, the second of the left, the second of the right."""
    sides = [{row[0]: row[1] for row in rows} for rows in (left, right)]
    return [[name, *(side.get(name) for side in sides)] for name in dict.fromkeys([*sides[0], *sides[1]])]


def split_headers(names: tuple[str, str]) -> list[str]:
    return ["split", *names, "added", "removed"]


def split_rows(left: Splits, right: Splits) -> list[list[Any]]:
    """Compare the splits by the content of the rows, for `split_headers`; then over all splits, where a row
    may have moved.
    """
    names = [name for name in ("train", "validation", "test") if name in left or name in right]
    rows = [_counts(name, set(left.get(name, ())), set(right.get(name, ()))) for name in names]
    before, now = ({row for split in side.values() for row in split} for side in (left, right))
    return [*rows, _counts("any", before, now)]


def overlaid(left: Lines, right: Lines, names: tuple[str, str]) -> Iterator[tuple[str, Lines]]:
    """Yield (what a chart shows, its lines by the side they are of), for each curve of either."""
    for what in dict.fromkeys([*left, *right]):
        sides = zip(names, (left.get(what), right.get(what)), strict=True)
        yield what, {name: points for name, points in sides if points}


Pair = tuple[Rule | None, Rule | None]


def rule_pairs(left: Sequence[Rule], right: Sequence[Rule]) -> list[Pair]:
    """Pair the rules of two verdicts by what they were asked; None where a verdict has no such rule."""
    sides = [{(rule.rule, rule.task, rule.metric): rule for rule in rules} for rules in (left, right)]
    return [(sides[0].get(name), sides[1].get(name)) for name in dict.fromkeys([*sides[0], *sides[1]])]


def pair_groups(pairs: Sequence[Pair], names: tuple[str, str]) -> list[list[RuleOf]]:
    """Return those of each pair that are there, to be drawn on one scale."""
    return [
        [RuleOf(f"{rule.task}, {name}", rule) for name, rule in zip(names, pair, strict=True) if rule]
        for pair in pairs
    ]


SCORE = ("base → tuned", "difference", "result")  # of one side


def score_headers(names: tuple[str, str]) -> list[str]:
    return ["task", *(f"{what}, {name}" for name in names for what in SCORE)]


def score_rows(pairs: Sequence[Pair]) -> list[list[Any]]:
    """Return rows for `score_headers`."""
    rows = []
    for pair in pairs:
        rule = next(rule for rule in pair if rule)
        rows.append([f"{rule.task} {rule.metric}", *(cell for side in pair for cell in _score(side))])
    return rows


def _score(rule: Rule | None) -> list[str]:
    if rule is None:
        return [ABSENT, ABSENT, "not asked"]
    return [change(rule.metric, rule.base, rule.tuned), difference(rule), rule_word(rule)]


def _counts(name: str, before: set[bytes], now: set[bytes]) -> list[Any]:
    return [name, len(before), len(now), len(now - before), len(before - now)]


def _value(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ABSENT
    return json.dumps(value, ensure_ascii=False)
