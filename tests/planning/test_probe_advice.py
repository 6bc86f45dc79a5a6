"""A plan names a probe where one was measured to find much and takes minutes, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.plan import PlanAndEstimate, make_plan
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.planning.probe_advice import SHARE
from tests.planning.llama import spec
from tests.planning.small import given

pytestmark = pytest.mark.slow
NARROW: dict[str, Any] = {"objective": "task_specific", "evaluation": {"kind": "label"}}
ADVICE = f"`plan.probe: {{share: {SHARE:g}}}` tries it: "


def planned(context: PlanContext, examples: int = 400, **declared: Any) -> str:
    plan: PlanAndEstimate = make_plan(spec(**declared), given(context, examples), context)
    return "; ".join(plan.estimate.notes)


def test_it_is_named_for_a_narrow_task_of_which_all_is_open(small: PlanContext) -> None:
    said = planned(small, **NARROW)
    assert f"{ADVICE}5 whole trainings of 119 to 158 steps: about 839% of the training's FLOPs" in said
    assert "s, $0.00 beside what it takes to start them" in said


@pytest.mark.parametrize(
    "declared",
    [
        {},
        {**NARROW, "method": "lora"},
        {**NARROW, "training": {"learning_rate": 1e-3}},
        {**NARROW, "plan": {"probe": "on"}},
        {**NARROW, "method": {"rank": 8}, "training": {"learning_rate": 1e-3}},
    ],
)
def test_it_is_not_where_nothing_was_measured_or_little_is_open(
    small: PlanContext, declared: dict[str, Any]
) -> None:
    assert ADVICE not in planned(small, **declared)


def test_it_is_not_where_there_is_nothing_to_compare_on(small: PlanContext) -> None:
    without = replace(given(small, 400), validation=0)
    assert ADVICE not in "; ".join(make_plan(spec(**NARROW), without, small).estimate.notes)
    asked = make_plan(spec(**NARROW, plan={"probe": {"share": SHARE}}), without, small)
    assert any("there is no validation split to compare on" in line for line in asked.estimate.warnings)


def test_it_is_not_where_it_takes_hours(small: PlanContext) -> None:
    slow = replace(small, hardware=Hardware("cpu", 1, "CPU", 8 * 10**9, 1e9, True, 0.1))
    assert ADVICE not in planned(slow, **NARROW)
    assert ADVICE in planned(small, **NARROW, training={"max_steps": 100})
    assert ADVICE not in planned(small, **NARROW, training={"max_steps": 100_000})
