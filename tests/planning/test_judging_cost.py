"""What judging costs: of every question that is asked, and unknown where nobody counted them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ft_dagster.planning.cost.questions import NOT_COUNTED, QuestionsThere
from ft_dagster.planning.estimate import Estimate
from ft_dagster.planning.methods.decision import Decision
from ft_dagster.planning.plan import make_plan
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.spec.variant import EvaluationSpec
from tests.planning.decisions import decided, rule
from tests.planning.llama import spec
from tests.planning.memory_formula import LLAMA_8B
from tests.planning.small import given
from tests.present import present

LIMITS = (60, 400, "auto", None)
UNCOUNTED = "all the questions that there are (evaluation.limit: null), which nobody counted yet"


def asked(there: QuestionsThere = NOT_COUNTED, **evaluation: Any) -> int | None:
    return there.asked(EvaluationSpec(**{"general": ("arc_easy",), **evaluation}))


def test_what_nobody_counted_is_taken_to_be_as_many_as_are_asked_at_most() -> None:
    assert [asked(limit=limit) for limit in LIMITS] == [120, 800, 4000, None]


def test_what_was_counted_is_asked_up_to_the_limit() -> None:
    there = QuestionsThere(test=100, declared=(2376,))
    assert [asked(there, limit=limit) for limit in LIMITS] == [120, 500, 2100, 2476]
    few = QuestionsThere(test=3, declared=(5,))
    assert [asked(few, limit=limit) for limit in LIMITS] == [8, 8, 8, 8]


def test_three_tasks_are_three_times_one_and_stand_in_place_of_the_test_split() -> None:
    three, one = ("a", "b", "c"), ("a",)
    assert asked(task=three, general=()) == 3 * present(asked(task=one, general=()))
    there = QuestionsThere(test=100, declared=(7, 8, 9))
    assert asked(there, task=three, general=(), limit=None) == 24


def test_counts_of_other_tasks_than_are_declared_count_for_nothing() -> None:
    there = QuestionsThere(test=100, declared=(7, 8))
    assert asked(there) == 500
    assert asked(there, limit=None) is None


def limited(**more: Any) -> Decision:
    return decided(LLAMA_8B, "A100-80GB", questions=None, **more)


def test_no_limit_is_held_against_questions_that_nobody_counted() -> None:
    decision = limited(budget_usd=1000, deadline_hours=100)
    figures = decision.row("lora").figures
    assert (figures.hours, figures.usd, figures.experiments) == (None, None, None)
    assert present(present(figures.training).hours) > 0
    for name, limit in (("budget", "$1,000.00"), ("deadline", "100h 00m")):
        said = rule(decision, "lora", name)
        assert said.verdict == "neither"
        assert said.sentence == f"the {name} of {limit} cannot be held against {UNCOUNTED}"
    assert any("nobody counted yet how many questions there are" in note for note in decision.notes)


@pytest.mark.slow
def test_all_questions_never_cost_less_than_some(small: PlanContext) -> None:
    def judging(limit: Any, there: QuestionsThere) -> float | None:
        declared = spec(method="lora", evaluation={"limit": limit, "general": ["arc_easy"]})
        found = make_plan(declared, given(small, 400), replace(small, questions=there)).estimate
        return None if found.predicted.hours is None else _judging(found)

    many = QuestionsThere(test=100, declared=(2376,))
    assert judging(None, NOT_COUNTED) is None
    assert present(judging(None, many)) == pytest.approx(2476 / 500 * present(judging(400, many)))


@pytest.mark.slow
def test_a_plan_counts_every_declared_task(small: PlanContext) -> None:
    one, three = (
        make_plan(
            spec(method="lora", evaluation={"task": list(tasks), "general": []}), given(small, 400), small
        ).estimate
        for tasks in ("a", "abc")
    )
    assert _judging(three) == pytest.approx(3 * _judging(one))


def _judging(found: Estimate) -> float:
    """Hours."""
    return present(found.predicted.hours) - present(found.predicted.training_hours)


def test_what_is_declared_beside_the_tasks_is_counted_too() -> None:
    there = QuestionsThere(test=100, declared=(2376,), train=900, refusals=240, planted=60)
    assert asked(there) == 500 + 240 + 60 + 255
    assert asked(there, membership=500) == 500 + 240 + 60 + 255 + 500 + 100
    assert asked(there, membership=500, reserve=4) == 425 + 240 + 60 + 255 + 500 + 25
    assert asked(membership=50) == 800 + 2 * 50
    assert asked(there, task=("a",), general=(), membership=2000, limit=10) == 10 + 555 + 900 + 100


def test_a_plan_says_what_is_asked_beside_the_tasks_and_no_limit_forgets_it() -> None:
    beside = {"prompts of gates.refusals": 240, "rows of evaluation.membership": 1000}
    decision = decided(LLAMA_8B, "A100-80GB", questions=1640, beside=beside)
    said = "1,640 questions, of these beside its tasks: 240 prompts of gates.refusals, 1,000 rows of evalua"
    assert any(said in note for note in decision.notes)
    assert not any("beside its tasks" in note for note in decided(LLAMA_8B, "A100-80GB").notes)


@pytest.mark.slow
def test_refusals_and_membership_inference_cost_what_so_many_questions_do(small: PlanContext) -> None:
    def judging(there: QuestionsThere, **more: Any) -> float:
        declared = spec(method="lora", evaluation={"limit": 400, "general": [], **more})
        return _judging(make_plan(declared, given(small, 400), replace(small, questions=there)).estimate)

    there = QuestionsThere(test=100, train=900)
    alone = judging(there)
    assert judging(there, membership=400) == pytest.approx(6 * alone)
    assert judging(replace(there, refusals=240)) == pytest.approx(3.4 * alone)
    assert judging(replace(there, planted=45)) == pytest.approx(4 * alone)
