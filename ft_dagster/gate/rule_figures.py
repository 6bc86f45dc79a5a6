"""Writes the figures of a rule as every table, page and card has them: base and tuned, the change, its
margin.
"""

from __future__ import annotations

import math

from ft_dagster.gate.sentences import units
from ft_dagster.lineage.verdict import Rule

ABSENT = "-"


def sides(rule: Rule) -> tuple[str, str]:
    """Return base and tuned: "41.0%" and "55.0%", or "4.655" and "1.422" for a loss."""
    _, show = units(rule.metric, (rule.base, rule.tuned))
    base, tuned = (show(value) if math.isfinite(value) else ABSENT for value in (rule.base, rule.tuned))
    return base, tuned


def difference(rule: Rule) -> str:
    """Return the measured change and its interval: "-7.5 points (-20.4 to +3.9)".

    An interval is of the change as it counts: of a text up to a bound. Where some changed by more, the mean
    of what counts is said: "-3.783 nats; counting up to 2 a text: -1.412 (-2.000 to -0.941)".
    """
    low, high = rule.interval
    if not all(map(math.isfinite, (rule.difference, low, high))):
        return ABSENT
    measured, ends = _signed(rule, rule.difference), f"{_bare(rule, low)} to {_bare(rule, high)}"
    if rule.counted is None and low <= rule.difference <= high:
        return f"{measured} ({ends})"
    each = "text" if rule.metric.endswith("_loss") else "question"
    counted = ends if rule.counted is None else f"{_bare(rule, rule.counted)} ({ends})"
    return f"{measured}; counting up to {rule.bound or 1:g} a {each}: {counted}"


def interval_words(rule: Rule) -> str:
    """Return the interval of the change alone: "-20.4 to +3.9 points"; a dash where it is not known."""
    if not all(map(math.isfinite, rule.interval)):
        return ABSENT
    low, high = rule.interval
    return f"{_bare(rule, low)} to {_signed(rule, high)}"


def margin(rule: Rule) -> str:
    """Return what passes, in the unit of the difference: "a fall of 15.0 points", "an improvement"."""
    points, show = units(rule.metric, (rule.base, rule.tuned))
    if rule.rule == "regurgitation":
        return f"at most {show(rule.margin)}"
    if rule.rule == "membership":
        return f"at most {show(rule.base + rule.margin)}"
    if not rule.margin:
        return "an improvement"
    return f"a {'fall' if rule.higher_is_better else 'rise'} of {_short(points(rule.margin))}"


def metric_name(metric: str, *, higher_is_better: bool) -> str:
    """Return a metric as tables name it: where lower is better, that is said."""
    return metric if higher_is_better else f"{metric}, lower is better"


def _signed(rule: Rule, value: float) -> str:
    points, _ = units(rule.metric, (rule.base, rule.tuned))
    return f"{'-' if value < 0 else '+'}{_short(points(abs(value)))}"


def _bare(rule: Rule, value: float) -> str:
    return _signed(rule, value).split()[0]


def _short(said: str) -> str:
    return said.removesuffix(" a token")
