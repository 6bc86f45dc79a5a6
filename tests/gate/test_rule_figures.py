"""A rule's figures as every table has them: in the unit of its metric, an interval beside what it is of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ft_dagster.gate.gates import judge
from ft_dagster.gate.rule_figures import difference, margin, metric_name, sides
from ft_dagster.gate.samples import Sample
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.spec.variant import GatesSpec
from tests.verdicts import stored_rule

LOSS: dict[str, Any] = {"metric": "completion_loss", "base": 4.0, "tuned": 3.4, "higher_is_better": False}


@pytest.mark.parametrize(
    ("changes", "moved", "may"),
    [
        ({"margin": 0.15}, "+10.0 points (+0.0 to +20.0)", "a fall of 15.0 points"),
        ({"interval": [-0.05, 0.2]}, "+10.0 points (-5.0 to +20.0)", "an improvement"),
        (
            {**LOSS, "difference": -0.6, "interval": [-0.75, -0.35], "margin": 0.2},
            "-0.600 nats (-0.750 to -0.350)",
            "a rise of 0.200 nats",
        ),
        ({"higher_is_better": False, "margin": 0.5}, "+10.0 points (+0.0 to +20.0)", "a rise of 50.0 points"),
        ({"metric": "f1", "base": 60.0, "tuned": 61.0, "difference": 1.0, "margin": 2.0, "interval": [-1, 3]},
         "+1 (-1 to +3)", "a fall of 2"),
        ({"rule": "regurgitation", "higher_is_better": False, "margin": 0.1}, "+10.0 points (+0.0 to +20.0)",
         "at most 10.0%"),
    ],
)  # fmt: skip
def test_a_margin_has_the_unit_of_its_difference(changes: dict[str, Any], moved: str, may: str) -> None:
    rule = Rule.from_json(stored_rule(**changes))
    assert (difference(rule), margin(rule)) == (moved, may)


def test_where_lower_is_better_it_is_said() -> None:
    assert metric_name("acc", higher_is_better=True) == "acc"
    assert metric_name("completion_loss", higher_is_better=False) == "completion_loss, lower is better"
    assert sides(Rule.from_json(stored_rule(**LOSS))) == ("4.000", "3.400")


def losses(*values: float) -> list[Sample]:
    return [
        Sample("test_split_task", "test_split_task", "completion_loss", f"q{n}", value, 1.0, False, None)
        for n, value in enumerate(values)
    ]


def judged(before: np.ndarray[Any, Any], change: np.ndarray[Any, Any]) -> Rule:
    found = judge(losses(*before), losses(*(before + change)), GatesSpec(), objective="instruction")
    return Verdict.from_json(found.to_json()).rules[0]


def test_an_interval_holds_its_own_estimate() -> None:
    """Where texts changed by more than counts, the mean of what counts stands with the interval."""
    draw = np.random.default_rng(0)
    before, change = draw.uniform(6, 9, 40), -draw.uniform(0.5, 7, 40)
    rule = judged(before, change)
    assert rule.difference == pytest.approx(change.mean())
    assert rule.estimate == rule.counted == pytest.approx(np.clip(change, -2, 2).mean())
    assert rule.interval[0] <= rule.estimate <= rule.interval[1]
    assert not rule.interval[0] <= rule.difference <= rule.interval[1]
    counted = f"{rule.difference:+.3f} nats; counting up to 2 a text: {rule.counted:+.3f} ("
    assert difference(rule).startswith(counted)
    assert f"counts at most 2, in the mean {rule.counted:.3f} nats a token: " in rule.sentence


def test_a_verdict_in_which_nothing_changed_by_more_is_stored_as_before() -> None:
    draw = np.random.default_rng(0)
    rule = judged(draw.uniform(3, 4, 40), -draw.uniform(0, 1.5, 40))
    assert rule.counted is None
    assert "counted" not in rule.to_json()
    assert rule.interval[0] <= rule.estimate <= rule.interval[1]


def test_an_older_verdict_says_that_its_interval_is_of_what_counts() -> None:
    old = {**LOSS, "difference": -3.783, "interval": [-2.0, -0.941], "bound": 2.0}
    assert (
        difference(Rule.from_json(stored_rule(**old)))
        == "-3.783 nats; counting up to 2 a text: -2.000 to -0.941"
    )
