"""Says what a rule of the gate found, in one sentence: the change, what it proves, and what could not be
seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

from ft_dagster.gate.power import LOSS_BOUND, POWER, least_questions
from ft_dagster.gate.prompts import PROMPTS
from ft_dagster.lineage.verdict import Groups, Part, Rule, RuleName, Tail
from ft_dagster.spec.data import MOST_HELD_OUT

PART_WORDS = {"calls_valid": "valid calls where some are due", "undue_call": "a call where none is due"}
Said = Callable[[float], str]
MOST_ROWS = 10_000  # of each side: the largest evaluation.membership
MOST_THERE = 100_000  # questions of a task, or rows of a test split, that anybody has
KEPT: dict[RuleName, int] = {  # never more
    "general_loss": MOST_HELD_OUT,
    "degeneration": len(PROMPTS),
    "membership": MOST_ROWS,
}
ASKED: dict[RuleName, str] = {"general_loss": "texts", "membership": "rows of each side"}


def sentence_of(rule: Rule, *, tries: int) -> str:
    """Say what `rule` found, whose outcome stands, at try number `tries`."""
    points, show = units(rule.metric, (rule.base, rule.tuned))
    went = f"{rule.what} ({rule.metric}) went from {show(rule.base)} to {show(rule.tuned)}"
    worse = "fall" if rule.higher_is_better else "rise"
    if not math.isfinite(rule.difference):
        return f"{went}: not a number, which never passes"
    if rule.blocked and rule.outcome != "fail":
        said = f"undecided: {rule.blocked}"
    elif rule.outcome == "pass":
        said = _shown(rule, points, worse)
    elif rule.outcome == "fail":
        said = _failed(rule, points, worse)
    else:
        said = _undecided(rule, points, worse)
    found = f"{said}; {_power(rule, points, worse)}{_ended(rule)}{_made_of(rule)}"
    return f"{went} ({_reach(rule, points)}; {_try(rule, tries)}): {found}"


def units(metric: str, means: tuple[float, float]) -> tuple[Said, Said]:
    """Return how a difference and a value of `metric` are said: nats a token, points of a share, or bare
    numbers.
    """
    if metric.endswith("_loss"):
        return (lambda x: f"{x:.3f} nats a token"), (lambda x: f"{x:.3f}")
    if metric.endswith("_auc"):
        return (lambda x: f"{x:.3f}"), (lambda x: f"{x:.3f}")
    if max(map(abs, means)) > 1:
        return (lambda x: f"{x:.3g}"), (lambda x: f"{x:.3f}")
    return (lambda x: f"{100 * x:.1f} points"), (lambda x: f"{100 * x:.1f}%")


def part_words(part: Part) -> str:
    """Return a part of a metric as a sentence has it: "a call where none is due 40.0% → 2.5%"."""
    _, show = units(part.metric, (part.base, part.tuned))
    return f"{PART_WORDS.get(part.metric, part.metric)} {show(part.base)} → {show(part.tuned)}"


def would_decide(rule: Rule) -> str:
    """Say about how many questions, or held-out texts, would decide a rule of which that is known."""
    asked = ASKED.get(rule.rule, "questions")
    if out_of_reach(rule):
        return f"no number of {asked} that could be had would decide"
    return f"about {wanted(rule):,} {asked} would decide"


def out_of_reach(rule: Rule) -> bool:
    """Say whether a rule takes more questions, or held-out texts, than there can be."""
    return wanted(rule) > KEPT.get(rule.rule, MOST_THERE)


def wanted(rule: Rule) -> int:
    """Return the questions that it takes to decide a rule; of held-out text the documents, which give chunks
    each.
    """
    needed = rule.needed or 0
    if rule.rule != "general_loss" or not rule.units or not rule.questions:
        return needed
    return math.ceil(needed * rule.units / rule.questions)


def wanted_next(rule: Rule, tries: int) -> int:
    """Return about how many it takes at the try after this one, whose level is smaller: as many more as the
    normal approximation has it.
    """

    def effort(level: float) -> float:
        return (NormalDist().inv_cdf(1 - level) + NormalDist().inv_cdf(POWER)) ** 2

    return math.ceil(wanted(rule) * effort(rule.level * tries / (tries + 2)) / effort(rule.level))


def _reach(rule: Rule, points: Said) -> str:
    low, high = rule.interval
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval can be given"
    ends = [f"{'-' if end < 0 else '+'}{points(abs(end))}" for end in (low, high)]
    counted = f", of which a text counts at most {rule.bound:g}" if rule.metric.endswith("_loss") else ""
    if rule.counted is not None:
        counted += f", in the mean {'-' if rule.counted < 0 else '+'}{points(abs(rule.counted))}"
    return f"{100 * rule.confidence:.3g}% interval of the change{counted}: {ends[0].split()[0]} to {ends[1]}"


def _try(rule: Rule, tries: int) -> str:
    look = "" if rule.look is None else f", look {rule.look[0]} of {rule.look[1]}"
    return f"try {tries}{look}, level {100 * rule.level:.2g}%"


def _shown(rule: Rule, points: Said, worse: str) -> str:
    """Say what is shown; of a loss never without what its mean counts, and how many rose by more."""
    margin, mean = rule.margin, "mean " if rule.tail else ""
    said = f"a {mean}{worse} of {points(margin)} is ruled out" if margin else "shown to be better"
    if rule.tail is None:
        return said
    few = f"fewer than {_percent(rule.tail.allowed)}"
    those = f"{few} of the groups have one that" if _grouped(rule) else few
    more = "more" if rule.bound == LOSS_BOUND else f"more than {_nats(LOSS_BOUND)}"
    return f"{said}, {_counted(rule)}; {those} rose by {more}"


def _failed(rule: Rule, points: Said, worse: str) -> str:
    if rule.tail is not None and _mean_holds(rule):
        too_many = f"more than {_percent(rule.tail.allowed)} {_rises(rule)}"
        return f"{too_many}, which chance does not explain (p = {rule.harm:.2g})"
    within = f"within the margin of {points(rule.margin)}" if rule.margin else "an improvement"
    return f"a {worse} that chance does not explain (p = {rule.harm:.2g}), and not shown to be {within}"


def _undecided(rule: Rule, points: Said, worse: str) -> str:
    reasons = [] if _mean_holds(rule) else [_of_mean(rule, points, worse)]
    if rule.tail is not None and not rule.tail.shown:
        reasons.append(_of_tail(rule, rule.tail))
    found = f"undecided: {', and '.join(reasons)}"
    if rule.needed is not None:
        found += f"; {would_decide(rule)}"
    if rule.passed:
        found += "; it counts as passed, the measured change being within the margin (gates.undecided)"
    return found


def _of_mean(rule: Rule, points: Said, worse: str) -> str:
    """Say why a mean fall of the margin is not ruled out, or that what was measured is beyond it."""
    margin, worst = rule.margin, _worst(rule)
    least = least_questions(margin, bound=rule.bound or 1.0, alpha=rule.level)
    counted = f", {_counted(rule)}" if rule.tail else ""
    if not margin:
        return "not shown to be better"
    if rule.groups is not None and (rule.groups.least or 0) > (rule.units or 0):
        return _too_unlike(rule.groups, points(margin))
    if (rule.units or rule.questions) < least:
        return f"even of no change, {least:,} questions are the least that rule out {points(margin)}"
    if worst < margin:
        return f"the mean of all changes in full is beyond the margin of {points(margin)}"
    return f"a {worse} of {points(worst)} is possible{counted}, {points(margin)} are allowed"


def _too_unlike(groups: Groups, margin: str) -> str:
    """Say that groups are too few for the largest of them, and what would decide."""
    return (
        f"by size the largest group counts as {groups.largest:,} questions: even of no change, about "
        f"{groups.least:,} groups like these are the least that rule out {margin}; ask more groups, or of "
        "the task declare gates.weights: group"
    )


def _of_tail(rule: Rule, tail: Tail) -> str:
    allowed = f"fewer than {_percent(tail.allowed)} are allowed"
    least = least_questions(tail.allowed, alpha=rule.level)
    if tail.share > tail.allowed:
        return f"{_percent(tail.share)} {_rises(rule, measured=True)}, {allowed}"
    if (rule.units or rule.questions) < least:
        units = "groups" if _grouped(rule) else "texts"
        return (
            f"even where none rises by more than {_nats(LOSS_BOUND)}, {least:,} {units} are the least that "
            "show it"
        )
    return f"it is possible that up to {_percent(tail.high)} {_rises(rule)}, {allowed}"


def _mean_holds(rule: Rule) -> bool:
    """Say whether a mean fall of the margin is ruled out, and the measured one is within it."""
    measured = -rule.difference if rule.higher_is_better else rule.difference
    return _worst(rule) < rule.margin and measured <= rule.margin + 1e-9


def _counted(rule: Rule) -> str:
    return f"each text counted up to {_nats(rule.bound or LOSS_BOUND)}"


def _rises(rule: Rule, *, measured: bool = False) -> str:
    more = f"by more than {_nats(LOSS_BOUND)}"
    if _grouped(rule):
        return f"of the groups have a text that {'rose' if measured else 'rises'} {more}"
    return f"of the texts {'rose' if measured else 'rise'} {more}"


def _grouped(rule: Rule) -> bool:
    return rule.units is not None and rule.units != rule.questions


def _nats(number: float) -> str:
    return f"{number:g} nats"


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _worst(rule: Rule) -> float:
    """Return the largest worsening that the interval holds."""
    return -rule.interval[0] if rule.higher_is_better else rule.interval[1]


def _power(rule: Rule, points: Said, worse: str) -> str:
    count = f"{rule.questions:,} question{'s' if rule.questions != 1 else ''}"
    if rule.units is not None and (_grouped(rule) or rule.groups is not None):
        count += f" in {rule.units:,} group{'s' if rule.units != 1 else ''}{_unlike(rule.groups)}"
    if not math.isfinite(rule.seen) or (rule.bound is not None and rule.seen >= rule.bound):
        return f"with {count} this cannot see any {worse}"
    return f"with {count} this cannot see a {worse} below {points(rule.seen)}"


def _unlike(groups: Groups | None) -> str:
    """Say how groups of unlike size count."""
    if groups is None:
        return ""
    by_size = f", of which the largest counts as {groups.largest:,} questions,"
    return by_size if groups.weights == "size" else ", each counting alike,"


def _ended(rule: Rule) -> str:
    """Say why no more questions were asked of a rule that was asked batch after batch."""
    if rule.there is None or rule.look is None:
        return ""
    if rule.look[0] == rule.look[1]:
        return f"; all {rule.there:,} were asked"
    if rule.unfinished:
        return f"; the others of {rule.there:,} were not asked of both"
    return f"; this decides, so that the others of {rule.there:,} were not asked"


def _made_of(rule: Rule) -> str:
    """Say what the metric is made of, with the interval of each change."""
    said = []
    for part in rule.parts:
        points, _ = units(part.metric, (part.base, part.tuned))
        ends = [f"{'-' if end < 0 else '+'}{points(abs(end))}" for end in part.interval]
        asked = f"{part.questions:,} question{'s' if part.questions != 1 else ''}"
        said.append(f"{part_words(part)} on {asked} ({ends[0].split()[0]} to {ends[1]})")
    return "".join(f"; {each}" for each in said)
