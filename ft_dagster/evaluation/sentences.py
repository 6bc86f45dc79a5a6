"""What a rule of the gate found, in one sentence: the change, what it proves, and what could not be seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ft_dagster.evaluation.paired import Comparison
from ft_dagster.lineage.verdict import Outcome


@dataclass(frozen=True)
class Finding:
    """What a rule found on one task. `means`: of base and tuned model; `harm`: p of no fall, after Holm."""

    metric: str
    means: tuple[float, float]
    comparison: Comparison
    margin: float
    alpha: float
    higher_is_better: bool
    outcome: Outcome
    harm: float
    needed: int | None
    passed: bool


def sentence_of(what: str, found: Finding) -> str:
    """`what`: the rule's object in words."""
    points, show = units(found.metric, found.means)
    comparison, margin, better = found.comparison, found.margin, found.higher_is_better
    went = f"{what} ({found.metric}) went from {show(found.means[0])} to {show(found.means[1])}"
    worse = "fall" if better else "rise"
    if not math.isfinite(comparison.improvement):
        return f"{went}: not a number, which never passes"
    reach = _reach(comparison, points, 1 - 2 * found.alpha, better)
    if found.outcome == "pass":
        said = f"a {worse} of {points(margin)} is ruled out" if margin else "shown to be better"
    elif found.outcome == "fail":
        within = f"within the margin of {points(margin)}" if margin else "an improvement"
        said = f"a {worse} that chance does not explain (p = {found.harm:.2g}), and not shown to be {within}"
    else:
        said = _undecided(comparison, points, margin, worse, found.needed)
        if found.passed:
            said += "; it counts as passed, the measured change being within the margin (gates.undecided)"
    return f"{went} ({reach}): {said}; {_power(comparison, points, worse)}"


def units(metric: str, means: tuple[float, float]) -> tuple[Callable[[float], str], Callable[[float], str]]:
    """How a difference and a value of `metric` are said: nats a token, points of a share, or bare numbers."""
    if metric.endswith("_loss"):
        return (lambda x: f"{x:.3f} nats a token"), (lambda x: f"{x:.3f}")
    if max(map(abs, means)) > 1:
        return (lambda x: f"{x:.3g}"), (lambda x: f"{x:.3f}")
    return (lambda x: f"{100 * x:.1f} points"), (lambda x: f"{100 * x:.1f}%")


def _reach(
    comparison: Comparison, points: Callable[[float], str], confidence: float, higher_is_better: bool
) -> str:
    if not math.isfinite(comparison.low):
        return "of one question no interval can be given"
    low, high = comparison.low, comparison.high
    if not higher_is_better:
        low, high = -high, -low
    ends = [f"{'-' if end < 0 else '+'}{points(abs(end))}" for end in (low, high)]
    return f"{confidence:.0%} interval of the change: {ends[0].split()[0]} to {ends[1]}"


def _undecided(
    comparison: Comparison, points: Callable[[float], str], margin: float, worse: str, needed: int | None
) -> str:
    if not margin:
        found = "undecided: not shown to be better"
    elif math.isfinite(comparison.low):
        found = f"undecided: a {worse} of {points(-comparison.low)} is possible, {points(margin)} are allowed"
    else:
        found = f"undecided: any {worse} is possible, {points(margin)} are allowed"
    return found if needed is None else f"{found}; about {needed:,} questions would decide"


def _power(comparison: Comparison, points: Callable[[float], str], worse: str) -> str:
    count = f"{comparison.questions:,} question{'s' if comparison.questions != 1 else ''}"
    if not math.isfinite(comparison.seen) or (comparison.right_or_wrong and comparison.seen >= 1):
        return f"with {count} this cannot see any {worse}"
    if comparison.seen == 0:
        return f"each of {count} changed by the same"
    return f"with {count} this cannot see a {worse} below {points(comparison.seen)}"
