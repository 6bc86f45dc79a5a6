"""What a rule of the gate found, in one sentence: the change, what it proves, and what could not be seen."""

from __future__ import annotations

import math
from collections.abc import Callable

from ft_dagster.evaluation.power import GENERAL_TEXTS, least_questions
from ft_dagster.evaluation.prompts import PROMPTS
from ft_dagster.lineage.verdict import Rule, RuleName

Said = Callable[[float], str]
MOST_THERE = 100_000  # questions of a task, or rows of a test split, that anybody has
KEPT: dict[RuleName, int] = {"general_loss": GENERAL_TEXTS, "degeneration": len(PROMPTS)}  # never more


def sentence_of(rule: Rule, *, tries: int) -> str:
    """What `rule` found, whose outcome stands, at try number `tries` of the same weights."""
    points, show = units(rule.metric, (rule.base, rule.tuned))
    went = f"{rule.what} ({rule.metric}) went from {show(rule.base)} to {show(rule.tuned)}"
    worse = "fall" if rule.higher_is_better else "rise"
    if not math.isfinite(rule.difference):
        return f"{went}: not a number, which never passes"
    margin = rule.margin
    if rule.blocked and rule.outcome != "fail":
        said = f"undecided: {rule.blocked}"
    elif rule.outcome == "pass":
        said = f"a {worse} of {points(margin)} is ruled out" if margin else "shown to be better"
    elif rule.outcome == "fail":
        within = f"within the margin of {points(margin)}" if margin else "an improvement"
        said = f"a {worse} that chance does not explain (p = {rule.harm:.2g}), and not shown to be {within}"
    else:
        said = _undecided(rule, points, worse)
    found = f"{said}; {_power(rule, points, worse)}{_ended(rule)}"
    return f"{went} ({_reach(rule, points)}; {_try(rule, tries)}): {found}"


def units(metric: str, means: tuple[float, float]) -> tuple[Said, Said]:
    """How a difference and a value of `metric` are said: nats a token, points of a share, or bare numbers."""
    if metric.endswith("_loss"):
        return (lambda x: f"{x:.3f} nats a token"), (lambda x: f"{x:.3f}")
    if max(map(abs, means)) > 1:
        return (lambda x: f"{x:.3g}"), (lambda x: f"{x:.3f}")
    return (lambda x: f"{100 * x:.1f} points"), (lambda x: f"{100 * x:.1f}%")


def would_decide(rule: Rule) -> str:
    """About how many questions, or held-out texts, would decide a rule of which that is known."""
    asked = "texts" if rule.rule == "general_loss" else "questions"
    if out_of_reach(rule):
        return f"no number of {asked} that could be had would decide"
    return f"about {wanted(rule):,} {asked} would decide"


def out_of_reach(rule: Rule) -> bool:
    """Whether it takes more questions, or held-out texts, than there can be."""
    return wanted(rule) > KEPT.get(rule.rule, MOST_THERE)


def wanted(rule: Rule) -> int:
    """The questions that it takes to decide it; of held-out text the documents, which give chunks each."""
    needed = rule.needed or 0
    if rule.rule != "general_loss" or not rule.units or not rule.questions:
        return needed
    return math.ceil(needed * rule.units / rule.questions)


def _reach(rule: Rule, points: Said) -> str:
    low, high = rule.interval
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval can be given"
    ends = [f"{'-' if end < 0 else '+'}{points(abs(end))}" for end in (low, high)]
    counted = f", of which a text counts at most {rule.bound:g}" if rule.metric.endswith("_loss") else ""
    return f"{100 * rule.confidence:.3g}% interval of the change{counted}: {ends[0].split()[0]} to {ends[1]}"


def _try(rule: Rule, tries: int) -> str:
    look = "" if rule.look is None else f", look {rule.look[0]} of {rule.look[1]}"
    return f"try {tries} of these weights{look}, level {100 * rule.level:.2g}%"


def _undecided(rule: Rule, points: Said, worse: str) -> str:
    margin, low = rule.margin, _worst(rule)
    least = least_questions(margin, bound=rule.bound or 1.0, alpha=rule.level)
    if not margin:
        found = "undecided: not shown to be better"
    elif (rule.units or rule.questions) < least:
        found = (
            f"undecided: even of no change, {least:,} questions are the least that rule out {points(margin)}"
        )
    else:
        found = f"undecided: a {worse} of {points(low)} is possible, {points(margin)} are allowed"
    if rule.needed is not None:
        found += f"; {would_decide(rule)}"
    if rule.passed:
        found += "; it counts as passed, the measured change being within the margin (gates.undecided)"
    return found


def _worst(rule: Rule) -> float:
    """The largest worsening that the interval holds."""
    return -rule.interval[0] if rule.higher_is_better else rule.interval[1]


def _power(rule: Rule, points: Said, worse: str) -> str:
    count = f"{rule.questions:,} question{'s' if rule.questions != 1 else ''}"
    if rule.units is not None and rule.units != rule.questions:
        count += f" in {rule.units:,} group{'s' if rule.units != 1 else ''}"
    if not math.isfinite(rule.seen) or (rule.bound is not None and rule.seen >= rule.bound):
        return f"with {count} this cannot see any {worse}"
    return f"with {count} this cannot see a {worse} below {points(rule.seen)}"


def _ended(rule: Rule) -> str:
    """Why no more questions were asked of a rule that was asked batch after batch."""
    if rule.there is None or rule.look is None:
        return ""
    if rule.look[0] == rule.look[1]:
        return f"; all {rule.there:,} were asked"
    if rule.unfinished:
        return f"; the others of {rule.there:,} were not asked of both"
    return f"; this decides, so that the others of {rule.there:,} were not asked"
