"""A plan says where the least that is measured while a model trains is above its budget."""

from __future__ import annotations

from typing import Any

import pytest

from ft_dagster.planning.plan import make_plan
from ft_dagster.planning.planned_method import PlanContext
from tests.planning.llama import spec
from tests.planning.small import given

pytestmark = pytest.mark.slow


def warned(small: PlanContext, steps: int, **watch: Any) -> list[str]:
    training = {"max_steps": steps, "evaluations": 2, "watch": watch}
    plan = make_plan(spec(method="lora", training=training), given(small, 400), small)
    return [line for line in plan.estimate.warnings if line.startswith("measuring takes up to")]


def test_a_short_training_whose_looks_are_above_the_budget_is_told_before_it(small: PlanContext) -> None:
    (said,) = warned(small, 20)
    assert "of the training's FLOPs, above training.watch.budget of 10%: in 20 steps" in said
    assert "8 at each of 3 looks. Train longer" in said
    (asked,) = warned(small, 20, questions=5)
    assert "3 looks, and 5 questions of each benchmark. Train longer" in asked


def test_a_long_training_and_one_whose_budget_says_as_much_are_told_nothing(small: PlanContext) -> None:
    assert warned(small, 2000) == []
    assert warned(small, 20, budget=1.0) == []
    assert warned(small, 20, budget=None) == []
