"""How well training rows are told from held-out ones: the AUC, its interval, and the rule on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from ft_dagster.gate.gates import judge
from ft_dagster.gate.memorization.membership_rules import (
    Membership,
    Scored,
    auc_of,
    few_held_out,
    membership_of,
    membership_rules,
    told_apart,
    tpr_of,
)
from ft_dagster.gate.samples import MEMBERS, OTHERS, Sample
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.spec.variant import GatesSpec, VariantSpec

LEVEL = 0.025


def scored(values: Sequence[float], groups: Sequence[str] | None = None, side: str = "m") -> Scored:
    return Scored(np.array(values, float), tuple(groups or (f"{side}{n}" for n in range(len(values)))))


def losses(fell: Mapping[str, Sequence[float]]) -> tuple[list[Sample], list[Sample]]:
    """(base, tuned): samples of rows whose loss fell by so much, from 3 nats."""
    sides: tuple[list[Sample], list[Sample]] = ([], [])
    for task, values in fell.items():
        for n, by in enumerate(values):
            for side, value in zip(sides, (3.0, 3.0 - by), strict=True):
                name = f"{task}:0:{n:032x}"
                side.append(Sample("membership", task, "completion_loss", name, value, 9, False))
    return sides


def rule_of(fell: Mapping[str, Sequence[float]], limit: float = 0.6, level: float = LEVEL) -> Rule:
    [rule] = membership_rules(*losses(fell), GatesSpec(max_membership_auc=limit), level)
    return rule


def drawn(count: int, shift: float = 0.0, seed: int = 0) -> list[float]:
    return list(np.random.default_rng(seed).normal(shift, 1.0, count))


def test_the_auc_is_mann_whitneys_with_ties_counting_half() -> None:
    for seed in range(5):
        draw = np.random.default_rng(seed)
        one, other = draw.integers(0, 4, 37).astype(float), draw.integers(0, 3, 52).astype(float)
        expected = mannwhitneyu(one, other).statistic / (37 * 52)
        assert auc_of(one, other) == pytest.approx(expected)
    assert auc_of(np.ones(3), np.ones(5)) == 0.5


def test_the_interval_holds_the_auc_and_narrows_with_the_rows() -> None:
    widths = []
    for count in (50, 200, 1000):
        found = told_apart(scored(drawn(count)), scored(drawn(count, seed=1), side="o"), LEVEL)
        assert 0 <= found.low <= found.auc <= found.high <= 1
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)


def test_more_rows_on_one_side_help_though_the_other_has_few() -> None:
    held = scored(drawn(50, seed=1), side="o")
    few = told_apart(scored(drawn(50)), held, LEVEL)
    many = told_apart(scored(drawn(500)), held, LEVEL)
    assert many.units == few.units == 50
    assert many.high - many.low < few.high - few.low


def test_rows_of_one_group_are_one_unit() -> None:
    values, others = drawn(200), drawn(200, seed=1)
    apart = told_apart(scored(values), scored(others, side="o"), LEVEL)
    names = [f"g{n // 20}" for n in range(200)]
    together = told_apart(scored(values, names), scored(others, [f"o{n}" for n in names]), LEVEL)
    assert (apart.units, together.units) == (200, 10)
    assert together.auc == apart.auc
    assert together.high - together.low > apart.high - apart.low


def test_all_told_apart_has_a_lower_limit_below_one() -> None:
    found = told_apart(scored([2.0] * 100), scored([0.0] * 100, side="o"), LEVEL)
    assert (found.auc, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(LEVEL ** (1 / 100), abs=1e-4)  # Clopper and Pearson


def test_one_row_proves_nothing() -> None:
    found = told_apart(scored([0.0]), scored([1.0], side="o"), LEVEL)
    assert found.low == 0.0
    assert found.high == pytest.approx(1 - LEVEL, abs=1e-4)


def test_the_true_positive_rate_is_given_from_500_held_out_rows_up() -> None:
    members, others = drawn(300, 1.0), drawn(499, seed=1)
    assert told_apart(scored(members), scored(others, side="o"), LEVEL).tpr is None
    found = told_apart(scored(members), scored([*others, 0.0], side="o"), LEVEL)
    allowed = sorted([*others, 0.0])[-6]  # five of 500 lie above it
    assert found.tpr == pytest.approx(np.mean([score > allowed for score in members]))


def test_ties_with_the_threshold_are_no_hits() -> None:
    assert tpr_of(np.array([1.0, 2.0]), np.array([1.0] * 500)) == 0.5
    assert tpr_of(np.array([0.0] * 9), np.array([0.0] * 500)) == 0.0


def test_a_limit_passes_where_a_larger_auc_is_ruled_out_and_fails_where_one_is_shown() -> None:
    others = drawn(500, seed=1)
    passed = rule_of({MEMBERS: drawn(500), OTHERS: others})
    assert (passed.outcome, passed.passed) == ("pass", True)
    assert "a larger one is ruled out" in passed.sentence
    assert 0 < passed.seen < 0.1  # finite, as every figure of what passes
    failed = rule_of({MEMBERS: drawn(500, 1.0), OTHERS: others})
    assert (failed.outcome, failed.passed) == ("fail", False)
    assert "a larger one is shown" in failed.sentence


def test_an_undecided_limit_says_how_many_rows_would_decide() -> None:
    fell = {MEMBERS: drawn(40), OTHERS: drawn(40, seed=1)}
    rule = rule_of(fell)
    assert (rule.outcome, rule.passed) == ("undecided", False)
    assert rule.needed is not None
    assert 40 < rule.needed < 1000
    assert f"about {rule.needed:,} rows of each side would decide" in rule.sentence
    times = -(-rule.needed // 40)
    more = rule_of({side: values * times for side, values in fell.items()})
    assert more.outcome == "pass"


@pytest.mark.parametrize("undecided", ["fail", "measured"])
def test_too_few_rows_pass_nowhere(undecided: Literal["fail", "measured"]) -> None:
    gates = GatesSpec(max_membership_auc=0.9, undecided=undecided)
    for fell in ({MEMBERS: [0.0], OTHERS: [0.5]}, {MEMBERS: [0.0]}, {OTHERS: [0.5]}):
        [rule] = membership_rules(*losses(fell), gates, LEVEL)
        assert (rule.outcome, rule.passed) == ("undecided", False)
    [rule] = membership_rules([], [], gates, LEVEL)
    assert (rule.outcome, rule.passed) == ("undecided", False)
    assert "nothing could be compared" in rule.blocked


def test_a_loss_that_is_no_number_fails() -> None:
    rule = rule_of({MEMBERS: [math.nan, 0.1], OTHERS: [0.0, 0.1]})
    assert (rule.outcome, rule.passed) == ("fail", False)
    assert "not a number" in rule.sentence


def test_only_rows_that_both_models_were_asked_are_compared() -> None:
    base, tuned = losses({MEMBERS: drawn(30), OTHERS: drawn(30, seed=1)})
    found = membership_of(base[5:], tuned, LEVEL)
    assert found is not None
    assert (found.trained_on, found.held_out) == (25, 30)
    assert membership_of(base, [], LEVEL) is None


def test_the_rule_stands_in_the_verdict_beside_the_others_and_is_no_test_of_harm() -> None:
    base, tuned = losses({MEMBERS: drawn(500, 1.0), OTHERS: drawn(500, seed=1)})
    asked = [
        [Sample("task", "quiz", "acc", f"quiz:0:{n:032x}", value, 1.0, True) for n in range(40)]
        for value in (0.0, 1.0)
    ]
    gates = GatesSpec(max_membership_auc=0.6)
    verdict = judge([*base, *asked[0]], [*tuned, *asked[1]], gates)
    assert (verdict.outcome, [rule.rule for rule in verdict.broken]) == ("fail", ["membership"])
    without = judge([*base, *asked[0]], [*tuned, *asked[1]], GatesSpec())
    assert [rule.to_json() for rule in without.rules] == [rule.to_json() for rule in verdict.rules[:1]]
    assert Verdict.from_json(verdict.to_json()).to_json() == verdict.to_json()


def test_the_figures_are_read_as_they_were_written() -> None:
    for found in (
        told_apart(scored(drawn(9)), scored(drawn(9), side="o"), LEVEL),
        told_apart(scored([]), scored([1.0]), LEVEL),
    ):
        assert Membership.from_json(found.to_json()).to_json() == found.to_json()


SPEC: dict[str, Any] = {
    "description": "x",
    "owners": ["a@b.example"],
    "base_model": "base",
    "data": {"sources": ["rows.jsonl"]},
}


def spec_of(limit: float | None, asked: int) -> VariantSpec:
    parts = {"evaluation": {"membership": asked}, "gates": {"max_membership_auc": limit}}
    return VariantSpec.model_validate({**SPEC, **parts})


@pytest.mark.slow
def test_before_a_training_it_is_said_where_the_held_out_rows_will_hardly_decide() -> None:
    [line] = few_held_out(spec_of(0.6, 500), 55)
    assert "max_membership_auc 0.6 will hardly be decided by 55 held-out rows" in line
    needed = int(line.split("about ")[1].split(" ")[0].replace(",", ""))
    assert few_held_out(spec_of(0.6, needed), needed) == ()
    assert few_held_out(spec_of(0.6, needed // 2), needed) != ()
    dealt = VariantSpec.model_validate(
        {
            **SPEC,
            "evaluation": {"membership": needed, "reserve": 4},
            "gates": {"max_membership_auc": 0.6},
        }
    )
    assert few_held_out(dealt, 2 * needed) != ()  # a set of the reserve is half of what is needed
    assert few_held_out(dealt, 4 * needed) == ()
    assert few_held_out(spec_of(None, 500), 55) == few_held_out(spec_of(0.6, 0), 55) == ()
    passed = sum(
        rule_of({MEMBERS: drawn(needed, seed=n), OTHERS: drawn(needed, seed=n + 99)}).passed
        for n in range(40)
    )
    assert passed > 24  # of a model that kept nothing: 80% by the formula
