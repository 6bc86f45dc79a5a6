"""Asking batch after batch until the gate is decided: the order, the looks, the verdict that replays them."""

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from ft_dagster.errors import UserError
from ft_dagster.gate.gates import Referee, judge, regression
from ft_dagster.gate.judged_by import Opponent
from ft_dagster.gate.pairing import TaskKey
from ft_dagster.gate.samples import Sample, on_the_same, scores
from ft_dagster.gate.sampling import draw_questions, order_of_asking
from ft_dagster.gate.sequential_looks import RUNGS, Order, batches, expected_questions, looks_of
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.spec.variant import MOST_QUESTIONS, GatesSpec
from tests.evaluation.questions import sample
from tests.long import mostly_long

GATES = GatesSpec(task_margin=0.05, general_margin=0.05, general_loss_margin=0.1, loss_tail=0.1)
EXAM: dict[str, Any] = {"role": "task", "task": "exam"}
LOSS: dict[str, Any] = {
    "role": "general_loss",
    "task": "texts",
    "metric": "general_loss",
    "higher_is_better": False,
}
KEY: TaskKey = ("task", "exam")
SEED = 3


def ids(task: str, count: int) -> list[str]:
    return [f"{task}:0:{number:04x}" for number in range(count)]


def column(values: Iterable[float], **fields: Any) -> list[Sample]:
    fields = {**EXAM, **fields}
    return [
        sample(n, value, **{**fields, "question": f"{fields['task']}:0:{n:04x}"})
        for n, value in enumerate(values)
    ]


def in_order(values: Iterable[float], count: int, **fields: Any) -> list[Sample]:
    """The samples of the first of `count` questions: so many as there are values, in the order of asking."""
    task = {**EXAM, **fields}["task"]
    asked = order_of_asking(ids(task, count), SEED)
    return [
        sample(0, value, **{**EXAM, **fields, "question": question})
        for question, value in zip(asked, values, strict=False)
    ]


def judged(base: list[Sample], tuned: list[Sample], gates: GatesSpec = GATES, tries: int = 1) -> Rule:
    verdict = judge(base, tuned, gates, tries=tries, order=Order.of(base, SEED))
    return verdict.rules[0]


def asked(base: list[float], tuned: list[float], gates: GatesSpec = GATES, **fields: Any) -> int:
    """How many questions are asked of a model with these answers, which are in the order of asking."""
    count = len(base)
    before = in_order(base, count, **fields)
    order = Order.of(before, SEED)
    referee = Referee(before, gates, order)
    after = in_order(tuned, count, **fields)
    key = (after[0].role, after[0].task)
    return next(n for n in batches(count) if n == count or referee.decided(key, after[:n]))


@pytest.mark.parametrize("there", [1, 40, 60, 80, 81, 200, 570, 2000])
@pytest.mark.parametrize("least", [1, 72, 183, 5000])
def test_the_looks_share_the_level_and_the_last_sees_everything(there: int, least: int) -> None:
    looks = looks_of(there, least)
    assert math.fsum(look.share for look in looks) == pytest.approx(1)
    assert looks[-1].questions == there
    assert all(one.questions < other.questions for one, other in pairwise(looks))
    assert all(look.questions >= least for look in looks[:-1])
    assert {look.questions for look in looks} <= set(batches(there))


def test_no_more_than_the_most_are_asked() -> None:
    assert batches(MOST_QUESTIONS) == RUNGS
    assert batches(50) == (50,)


def test_the_first_asked_are_those_that_so_low_a_limit_draws() -> None:
    questions = [f"{n % 3}:{n:016x}" for n in range(300)]
    order = order_of_asking([f"arc:{question}" for question in questions], SEED)
    for limit in (1, 60, 90, 300):
        drawn = draw_questions({"arc": questions}, limit, SEED)["arc"]
        assert set(order[:limit]) == {f"arc:{questions[n]}" for n in drawn}


def test_the_subjects_of_a_group_are_asked_in_proportion() -> None:
    sizes = {"mmlu_law": 1534, "mmlu_anatomy": 135, "mmlu_ethics": 300}
    order = order_of_asking([f"{name}:0:{n:04x}" for name, size in sizes.items() for n in range(size)], SEED)
    assert len(set(order)) == sum(sizes.values())
    for count in (60, 135, 700):
        first = [question.split(":")[0] for question in order[:count]]
        for name, size in sizes.items():
            assert abs(first.count(name) - count * size / sum(sizes.values())) <= 1


def test_the_order_does_not_depend_on_where_the_questions_stand() -> None:
    questions = ids("exam", 100)
    assert order_of_asking(questions, 0) == order_of_asking(questions[::-1], 0)
    assert order_of_asking(questions, 0) != order_of_asking(questions, 1)


def test_a_model_that_answers_alike_passes_long_before_all_is_asked() -> None:
    base = [float(n % 2) for n in range(2000)]
    count = asked(base, base)
    assert count == 135  # of 72 on a rule of this margin can pass, of a share of its level a little later
    before = in_order(base, 2000)
    rule = judged(before, in_order(base[:count], 2000))
    assert (rule.outcome, rule.questions, rule.there, rule.look) == ("pass", 135, 2000, (2, 9))
    assert "look 2 of 9" in rule.sentence
    assert "with 135 questions" in rule.sentence
    assert "this decides, so that the others of 2,000 were not asked" in rule.sentence


def test_what_was_asked_beyond_the_decision_changes_nothing() -> None:
    """Nobody can stop, or go on, when it suits: here the questions after the first 135 are all lost."""
    base = [1.0] * 2000
    tuned = [1.0] * 135 + [0.0] * 1865
    before = in_order(base, 2000)
    short, long = (judged(before, in_order(tuned[:count], 2000)) for count in (135, 2000))
    assert short == long


def test_asking_that_ended_before_a_decision_is_no_evaluation() -> None:
    before, after = in_order([1.0] * 2000, 2000), in_order([1.0] * 90, 2000)
    with pytest.raises(UserError, match="ended after 90 questions, before anything was decided"):
        judged(before, after)


def test_other_questions_than_the_first_are_no_evaluation() -> None:
    before = in_order([1.0] * 2000, 2000)
    with pytest.raises(UserError, match="not asked of both models"):
        judged(before, before[1:136])


def test_a_model_that_fell_apart_is_asked_no_further() -> None:
    base, tuned = [1.0] * 2000, [0.0, 1.0] * 1000
    assert asked(base, tuned) == 90  # the first of its looks
    rule = judged(in_order(base, 2000), in_order(tuned[:90], 2000))
    assert (rule.outcome, rule.questions) == ("fail", 90)


@pytest.mark.slow
def test_a_fall_that_may_yet_be_shown_to_lie_within_the_margin_is_asked_on() -> None:
    """Losses that all rose by half of what is allowed: a rise for certain, and at the end a pass."""
    draw = np.random.default_rng(5)
    before = draw.normal(3.0, 0.3, 400).tolist()
    after = [value + rise for value, rise in zip(before, draw.normal(0.05, 0.02, 400), strict=True)]
    count = asked(before, after, **LOSS)
    own = [1.0] * 400
    verdict = judge(
        [*in_order(own, 400), *in_order(before, 400, **LOSS)],
        [*in_order(own, 400), *in_order(after[:count], 400, **LOSS)],
        GATES,
        order=Order.of([*in_order(own, 400), *in_order(before, 400, **LOSS)], SEED),
    )
    rule = verdict.rules[1]
    assert rule.outcome == "pass"
    assert rule.harm < 0.01


def test_what_nothing_decides_is_asked_to_the_end() -> None:
    draw = np.random.default_rng(2)
    base = (draw.random(200) < 0.5).astype(float)
    tuned = np.where(draw.random(200) < 0.3, 1 - base, base)
    assert asked(base.tolist(), tuned.tolist()) == 200
    rule = judged(in_order(base.tolist(), 200), in_order(tuned.tolist(), 200))
    assert (rule.outcome, rule.look) == ("undecided", (3, 3))
    assert "all 200 were asked" in rule.sentence


@pytest.mark.slow
@pytest.mark.parametrize("seed", mostly_long(range(12), every=4))
@pytest.mark.parametrize("fall", [0.0, 0.05, 0.1])
def test_asking_ends_exactly_where_the_verdict_finds_a_decision(seed: int, fall: float) -> None:
    draw = np.random.default_rng(seed)
    base = (draw.random(700) < 0.7).astype(float)
    changed = draw.random(700)
    tuned = np.where(changed < 0.05 + fall, 0.0, np.where(changed > 0.95, 1.0, base))
    count = asked(base.tolist(), tuned.tolist())
    before = in_order(base.tolist(), 700)
    rule = judged(before, in_order(tuned[:count].tolist(), 700))
    assert rule.questions == count
    assert rule.look is not None
    assert (rule.outcome == "undecided") <= (count == 700)
    if count > batches(700)[0]:
        shorter = max(n for n in batches(700) if n < count)
        with pytest.raises(UserError, match="before anything was decided"):
            judged(before, in_order(tuned[:shorter].tolist(), 700))


def test_a_task_that_must_be_better_is_decided_by_its_first_questions() -> None:
    gates = GATES.model_copy(update={"task_margin": 0.0})
    assert asked([0.0] * 2000, [1.0] * 2000, gates) == RUNGS[0]


def test_questions_of_one_group_are_one_unit_at_each_look() -> None:
    base = [1.0] * 2000
    order = order_of_asking(ids("exam", 2000), SEED)
    groups = {question: f"document {n % 10}" for n, question in enumerate(order)}
    alone, grouped = (
        in_order(base, 2000),
        [s._replace(group=groups[s.question]) for s in in_order(base, 2000)],
    )
    assert judged(alone, alone).outcome == "pass"
    assert judged(grouped, grouped).outcome == "undecided"


def test_a_batch_in_which_no_question_has_the_metric_decides_nothing() -> None:
    """The task is judged by a metric that rows of its second half alone have."""
    order = order_of_asking(ids("exam", 400), SEED)

    def rows(count: int) -> list[Sample]:
        return [
            sample(n, 1.0, **EXAM, metric="acc" if n >= 135 else "loss", question=question)
            for n, question in enumerate(order[:count])
        ]

    rule = judged(rows(400), rows(400), GATES)
    assert (rule.metric, rule.outcome, rule.questions) == ("acc", "pass", 165)
    assert rule.look == (4, 5)


def test_a_later_try_has_less_of_the_level_at_each_look() -> None:
    before = in_order([1.0] * 2000, 2000)
    first, second = judged(before, before), judged(before, before, tries=2)
    assert second.questions > first.questions
    assert second.level < first.level


def test_values_that_are_no_numbers_end_the_asking_and_fail() -> None:
    base = [2.0] * 400
    assert asked(base, [math.nan] * 400, **LOSS) == 90
    own = in_order([1.0] * 400, 400)
    before = [*own, *in_order(base, 400, **LOSS)]
    after = [*own, *in_order([math.nan] * 90, 400, **LOSS)]
    verdict = judge(before, after, GATES, order=Order.of(before, SEED))
    assert verdict.rules[1].outcome == "fail"


def test_a_verdict_of_looks_is_read_as_it_was_written_and_any_other_is_written_as_before() -> None:
    before = in_order([1.0] * 400, 400)
    looked = judge(before, before, GATES, order=Order.of(before, SEED))
    assert looked.to_json()["schema_version"] == 4
    assert Verdict.from_json(looked.to_json()) == looked
    whole = judge(before, before, GATES).to_json()
    assert whole["schema_version"] == 3
    assert not {"there", "look"} & whole["rules"][0].keys()


def test_production_is_compared_as_far_as_both_were_asked_and_no_further() -> None:
    base = in_order([0.0] * 2000, 2000)
    order = Order.of(base, SEED)
    released, tuned = in_order([1.0] * 60, 2000), in_order([1.0] * 2000, 2000)
    (rule,) = regression(released, tuned, GATES, version=1, order=order)
    assert (rule.outcome, rule.passed, rule.unfinished) == ("undecided", False, True)
    assert "the others of 2,000 were not asked of both" in rule.sentence
    (more,) = regression(tuned, tuned, GATES, version=1, order=order)
    assert (more.outcome, more.unfinished, more.questions) == ("pass", False, 135)


def test_a_referee_of_production_goes_by_the_margins_against_production() -> None:
    before = in_order([1.0] * 400, 400)
    gates = GATES.model_copy(update={"task_margin": 0.5, "regression_margin": 0.05})
    order = Order.of(before, SEED)
    judges = (Opponent(), Opponent(against="production"))
    own, other = (Referee(before, gates, order, judges=each) for each in judges)
    assert (own.decided(KEY, before[:60]), other.decided(KEY, before[:60])) == (True, False)


def test_the_base_is_shown_on_the_questions_that_the_tuned_model_was_asked() -> None:
    base = in_order([1.0] * 60 + [0.0] * 1940, 2000)
    tuned = in_order([1.0] * 60, 2000)
    (score,) = scores(on_the_same(base, tuned))
    assert (score.value, score.questions) == (1.0, 60)


def test_the_mean_that_a_plan_expects_grows_with_what_is_asked_of_it() -> None:
    wide, narrow = expected_questions(0.1, alpha=0.025), expected_questions(0.05, alpha=0.025)
    assert 72 < wide < narrow < MOST_QUESTIONS


@pytest.mark.slow
def test_facts_are_asked_on_where_they_fell_within_the_margin() -> None:
    """A look that rules out a fall of the margin decides nothing while the facts are measured to fall."""
    base = in_order([1.0] * 2000, 2000)
    fallen = [0.0] + [1.0] * 1999
    order = Order.of(base, SEED)
    for objective, wanted in (("instruction", 200), ("domain_knowledge", 2000)):
        referee = Referee(base, GATES, order, judges=Opponent(objective))
        count = next(n for n in batches(2000) if referee.decided(KEY, in_order(fallen[:n], 2000)))
        assert count == wanted
        tuned = in_order(fallen[:count], 2000)
        rule = judge(base, tuned, GATES, objective=objective, order=order).rules[0]
        assert (rule.passed, rule.questions) == (objective == "instruction", count)
