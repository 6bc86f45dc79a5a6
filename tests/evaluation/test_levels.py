"""What the gate let pass once: lumps, rare large rises, equal scores, groups, tries, nothing measured."""

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from ft_dagster.gate.gates import judge, regression, with_rules
from ft_dagster.gate.samples import Sample
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.spec.variant import GatesSpec
from tests.evaluation.questions import sample

GATES = GatesSpec(general_margin=0.1, general_loss_margin=0.1)
MEASURED = GATES.model_copy(update={"undecided": "measured"})
LOSS: dict[str, Any] = {
    "role": "general_loss",
    "task": "texts",
    "metric": "general_loss",
    "higher_is_better": False,
}
PROMPTS: dict[str, Any] = {
    "role": "general_prompts",
    "task": "general_prompts",
    "metric": "degenerate",
    "higher_is_better": False,
}
Pair = tuple[list[float], list[float]]
EXAM: dict[str, Any] = {"role": "task", "task": "exam", "metric": "json_f1"}


def column(values: Iterable[float], **fields: Any) -> list[Sample]:
    return [sample(n, v, **{"question": f"q:{n}:{n:04x}", **fields}) for n, v in enumerate(values)]


LEARNED = column([0.0] * 20, **EXAM), column([1.0] * 20, **EXAM)


def rules(pair: Pair, gates: GatesSpec = GATES, tries: int = 1, **fields: Any) -> tuple[Rule, ...]:
    """The rules of a verdict whose own task got better, without the task's."""
    base, tuned = (column(side, **fields) + own for side, own in zip(pair, LEARNED, strict=True))
    return judge(base, tuned, gates, tries=tries).rules[1:]


def one(pair: Pair, gates: GatesSpec = GATES, tries: int = 1, **fields: Any) -> Rule:
    (rule,) = rules(pair, gates, tries, **fields)
    return rule


def test_one_text_that_rose_by_two_nats_leaves_many_such_possible() -> None:
    """Of 64 texts one: at a true rise of the margin, 5% of the texts by 2 nats, so few are seen often."""
    rule = one(([3.0] * 64, [5.0] + [3.0] * 63), **LOSS)
    assert (rule.outcome, rule.passed) == ("undecided", False)
    assert rule.interval[1] > 0.1


def test_one_answer_in_forty_that_broke_leaves_many_such_possible() -> None:
    rule = one(([0.9] * 40, [0.0] + [0.9] * 39), metric="json_f1")
    assert rule.outcome == "undecided"


@pytest.mark.parametrize("count", [2, 20])
def test_equal_scores_of_few_questions_rule_nothing_out(count: int) -> None:
    scores = [1.0, 0.4] * (count // 2)
    rule = one((scores, scores), metric="json_f1")
    assert (rule.outcome, rule.harm) == ("undecided", 1.0)
    assert "even of no change, 36 questions are the least that rule out 10.0 points" in rule.sentence


def test_a_rise_beyond_the_bound_is_measured_in_full() -> None:
    """One text of 400 by 90 nats: counted as 2 it is little, and the mean rose by more than is allowed."""
    pair = [3.0] * 400, [93.0] + [3.0] * 399
    rule = one(pair, **LOSS)
    assert rule.interval[1] < 0.1 < rule.difference
    assert (rule.outcome, rule.passed) == ("undecided", False)
    assert one(pair, MEASURED, **LOSS).passed is False
    assert "of which a text counts at most 2" in rule.sentence


def test_questions_of_one_group_are_one_question() -> None:
    scores, groups = [1.0] * 100, [f"document {n // 10}" for n in range(100)]
    alone = one((scores, scores))
    grouped = [s._replace(group=g) for s, g in zip(column(scores), groups, strict=True)]
    verdict = judge([*grouped, *LEARNED[0]], [*grouped, *LEARNED[1]], GATES)
    rule = verdict.rules[1]
    assert (alone.outcome, rule.outcome) == ("pass", "undecided")
    assert (rule.questions, rule.units) == (100, 10)
    assert "with 100 questions in 10 groups this cannot see a fall below" in rule.sentence


def test_each_further_try_of_the_same_weights_has_less_of_the_level() -> None:
    pair = [1.0] * 40, [1.0] * 40
    levels = {k: one(pair, tries=k).level for k in (1, 2, 10)}
    assert levels == pytest.approx({1: 0.05 / 2, 2: 0.05 / 6, 10: 0.05 / 110})
    assert [one(pair, tries=k).outcome for k in (1, 2)] == ["pass", "undecided"]
    assert "try 2, level 0.83%" in one(pair, tries=2).sentence


def test_a_verdict_says_which_try_it_was_and_reads_it_again() -> None:
    verdict = judge(*LEARNED, GATES, tries=3)
    assert verdict.tries == 3
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_harm_is_as_easily_shown_in_a_later_try() -> None:
    pair = [1.0] * 100, [0.0] * 9 + [1.0] * 91
    assert {one(pair, tries=k).outcome for k in (1, 10)} == {"fail"}


def test_harm_is_adjusted_over_the_rules_of_verdict_and_production_together() -> None:
    """6 lost of 6 that differ have p = 1/64: below alpha beside one rule more, above it beside three."""
    pair = [1.0] * 60, [0.0] * 6 + [1.0] * 54
    alone = judge([*column(pair[0]), *LEARNED[0]], [*column(pair[1]), *LEARNED[1]], GATES)
    assert alone.rules[1].outcome == "fail"
    more = regression([*column(pair[1]), *LEARNED[1]], [*column(pair[1]), *LEARNED[1]], GATES, version=2)
    together = with_rules(alone, more, GATES)
    assert len(together.rules) == 4
    assert together.rules[1].harm == pytest.approx(4 / 64)
    assert (together.rules[1].outcome, together.outcome) == ("undecided", "undecided")
    assert "that chance does not explain" not in together.rules[1].sentence


def test_nothing_measured_never_passes() -> None:
    other = [s._replace(question=f"other:{n}:{n:04x}") for n, s in enumerate(LEARNED[1])]
    (rule,) = regression(LEARNED[1], other, MEASURED, version=1)
    assert (rule.questions, rule.passed) == (0, False)
    assert with_rules(judge(*LEARNED, MEASURED), [rule], MEASURED).passed is False


def test_values_without_a_known_bound_decide_nothing() -> None:
    for values in ([-1.0, 3.0], [250.0, 3.0]):
        rule = one((values * 100, values * 100), MEASURED, metric="points")
        assert (rule.outcome, rule.passed) == ("undecided", False)
        assert "no known bound" in rule.sentence


def test_values_from_0_to_100_are_held_against_a_bound_of_100() -> None:
    values = [50.0] * 400
    assert one((values, values), metric="chrf").bound == 100.0
    assert one((values, values), metric="chrf").outcome == "undecided"  # a tenth of a point of a hundred


@pytest.mark.parametrize(
    ("before", "after", "outcome"), [(0.0, 0.0, "pass"), (0.9, 0.1, "pass"), (0.0, 0.3, "fail")]
)
def test_degeneration_is_judged_against_the_base(before: float, after: float, outcome: str) -> None:
    rule = one(([before] * 32, [after] * 32), **PROMPTS)
    assert (rule.rule, rule.outcome) == ("degeneration", outcome)


def test_the_four_prompts_of_before_decide_nothing() -> None:
    assert one(([0.03] * 4, [0.21] * 4), **PROMPTS).passed is False


def test_degeneration_without_a_margin_is_not_judged() -> None:
    gates = GATES.model_copy(update={"degeneration_margin": None})
    assert rules(([0.0] * 32, [1.0] * 32), gates, **PROMPTS) == ()


def test_signs_of_degeneration_that_an_older_version_stored_are_not_judged() -> None:
    old = {**PROMPTS, "metric": "repeated_4grams"}
    assert rules(([0.0] * 4, [1.0] * 4), **old) == ()


@pytest.mark.slow
def test_a_verdict_takes_a_fraction_of_a_second() -> None:
    draw = np.random.default_rng(0)
    base, tuned = list(LEARNED[0]), list(LEARNED[1])
    for name in "abcdefgh":
        before = (draw.random(100) < 0.7).astype(float)
        after = np.where(draw.random(100) < 0.1, 1 - before, before)
        base += column(before.tolist(), task=name)
        tuned += column(after.tolist(), task=name)
    before = draw.normal(3, 0.3, 200)
    base += column(before.tolist(), **LOSS)
    tuned += column((before + draw.normal(0.02, 0.05, 200)).tolist(), **LOSS)
    judge(base, tuned, GATES)  # scipy is imported
    started = time.process_time()
    judge(base, tuned, GATES)
    assert time.process_time() - started < 1.0  # 0.1 s on a quiet core


def test_one_question_asked_400_times_is_one_question() -> None:
    """Copies in the test split, or in a benchmark of the tenant's own, whatever groups they claim."""
    scores = [1.0] * 400
    copies = [
        [sample(n, value, question=f"quiz:{n}:00ff", group=f"customer {n}") for n, value in enumerate(scores)]
        for _ in range(2)
    ]
    base, tuned = (side + own for side, own in zip(copies, LEARNED, strict=True))
    (rule,) = judge(base, tuned, GATES).rules[1:]
    assert (rule.outcome, rule.passed, rule.units) == ("undecided", False, 1)
    assert one((scores, scores)).passed
