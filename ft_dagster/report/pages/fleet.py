"""Shows a fleet as people read it: a row a variant, and how far each is from its base."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ft_dagster.gate.rule_figures import difference
from ft_dagster.gate.verdict_words import verdict_sentence
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.report.charts.report_charts import RuleOf
from ft_dagster.report.charts.svg import measured
from ft_dagster.report.figures import ABSENT, breakable, change, counted, is_share
from ft_dagster.report.pages.html import SortedCell
from ft_dagster.report.states import ORDER, VariantStatus

WORD = 14  # characters of a word of a cause that stays whole on paper
DRAWN = 60  # gains that a chart shows at most of one unit
COLUMNS = ("variant", "state", "version", "gain over base", "verdict", "age", "device hours", "USD")


@dataclass(frozen=True)
class FleetVariant:
    """Describes a variant of a fleet. `state`, `cause`, `version`: as `ft-dagster status` has them;
    `verdict`: of its newest evaluation; `days`: since what stands was judged; `hours`: of devices, of every
    training and evaluation that the store knows; `usd`: of these, None where no price is known.
    """

    variant: str
    state: VariantStatus
    cause: str = ""
    verdict: Verdict | None = None
    version: str = ABSENT
    days: float | None = None
    hours: float = 0.0
    usd: float | None = None

    @property
    def gains(self) -> list[Rule]:
        """Return the rules of its own tasks."""
        return [] if self.verdict is None else [rule for rule in self.verdict.rules if rule.rule == "task"]


def fleet_rows(variants: Iterable[FleetVariant]) -> list[list[Any]]:
    """Return rows for `COLUMNS`, sorted by urgency."""
    return [
        [
            one.variant,
            _state(one),
            one.version,
            _gain(one.gains),
            _sentence(one),
            SortedCell(age(one.days), one.days),
            SortedCell(f"{one.hours:.2f}" if one.hours else ABSENT, one.hours),
            SortedCell(ABSENT if one.usd is None else f"{one.usd:,.2f}", one.usd),
        ]
        for one in sorted(variants, key=lambda one: (ORDER.index(one.state), one.variant))
    ]


def _state(one: FleetVariant) -> str:
    """Return the state with its cause, where that is not the verdict, which stands beside it."""
    if one.cause in ("", _sentence(one)):
        return one.state
    return breakable(f"{one.state}: {one.cause}", WORD)


def _sentence(one: FleetVariant) -> str:
    return ABSENT if one.verdict is None else verdict_sentence(one.verdict)


def gain_groups(variants: Iterable[FleetVariant]) -> tuple[list[list[RuleOf]], int]:
    """Return the gains to be drawn, those in points on one scale and losses on another, from the best to the
    worst; and how many are left out, from the middle of each.
    """
    known = [RuleOf(one.variant, rule) for one in variants for rule in measured(one.gains)]
    known.sort(key=lambda one: -better(one.rule))
    shares, losses = ([one for one in known if _in_points(one.rule) is points] for points in (True, False))
    drawn = [_ends(group) for group in (shares, losses) if group]
    return drawn, len(known) - sum(map(len, drawn))


def _ends(group: list[RuleOf]) -> list[RuleOf]:
    half = DRAWN // 2
    return group if len(group) <= DRAWN else [*group[:half], *group[-half:]]


def better(rule: Rule) -> float:
    """Return by how much it is better than the base, in its metric's unit; worse is below zero."""
    return rule.difference if rule.higher_is_better else -rule.difference


def age(days: float | None) -> str:
    """Return "12 days", or "5 hours" below two."""
    if days is None:
        return ABSENT
    return counted(round(days), "day") if days >= 2 else counted(round(24 * days), "hour")


def _gain(rules: Sequence[Rule]) -> SortedCell:
    if not rules:
        return SortedCell(ABSENT, None)
    shown = [
        f"{rule.task} {rule.metric} {change(rule.metric, rule.base, rule.tuned)}: {difference(rule)}"
        for rule in rules
    ]
    return SortedCell("; ".join(shown), better(rules[0]))


def _in_points(rule: Rule) -> bool:
    return is_share(rule.metric, (rule.base, rule.tuned))
