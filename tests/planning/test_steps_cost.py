"""Hours, limits and notes of a plan are those of the steps that are trained, whatever decides how many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ft_dagster.planning.estimate import Estimate
from ft_dagster.planning.methods.question import shown_epochs
from ft_dagster.planning.plan import make_plan
from ft_dagster.planning.planned_method import PlanContext
from tests.planning.llama import spec
from tests.planning.small import given
from tests.present import present

pytestmark = pytest.mark.slow


def estimate(context: PlanContext, method: str = "lora", **training: Any) -> Estimate:
    facts = replace(given(context, 4000), ranks=context.hardware.count)
    return make_plan(spec(method=method, training=training), facts, context).estimate


def hours(found: Estimate) -> float:
    return present(found.predicted.training_hours)


def deadline_of(found: Estimate) -> tuple[str, str]:
    (rule,) = [rule for rule in found.planned_row.rules if rule.rule == "deadline"]
    return rule.verdict, rule.sentence


def test_hours_go_with_max_steps(small: PlanContext) -> None:
    few, many = (hours(estimate(small, max_steps=steps)) for steps in (100, 100_000))
    assert many == pytest.approx(1000 * few)


@pytest.mark.parametrize("method", ["full", "lora", "prompt_tuning"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_steps_of_the_declared_epochs_take_their_hours(
    small: PlanContext, method: str, ranks: int
) -> None:
    on = replace(small, hardware=replace(small.hardware, count=ranks))
    by_epochs = estimate(on, method)
    by_steps = estimate(on, method, max_steps=by_epochs.steps)
    assert by_steps.steps == by_epochs.steps
    assert hours(by_steps) == pytest.approx(hours(by_epochs), rel=1 / by_epochs.steps)
    assert hours(estimate(on, method, max_steps=3 * by_epochs.steps)) == pytest.approx(3 * hours(by_steps))


def test_a_deadline_is_held_against_max_steps(small: PlanContext) -> None:
    limited = replace(small, deadline_hours=0.015)
    assert deadline_of(estimate(limited))[0] == "against"
    assert deadline_of(estimate(limited, max_steps=10))[0] == "for"
    verdict, said = deadline_of(estimate(replace(small, deadline_hours=1.0), max_steps=100_000))
    assert verdict == "against"
    assert said.endswith("times the deadline of 1h 00m; 200 of its 2,050 epochs keep within it")


def test_the_note_names_the_epochs_that_max_steps_come_to(small: PlanContext) -> None:
    note = "time and cost are of each method's own epochs (lora {}, qlora {}, "
    for steps, epochs in ((None, "3"), (10, "0.205"), (100_000, "2,050")):
        said = note.format(epochs, epochs)
        assert any(line.startswith(said) for line in estimate(small, max_steps=steps).notes)


@pytest.mark.parametrize(
    ("epochs", "shown"), [(3.0, "3"), (0.4567, "0.457"), (8e-6, "0.000008"), (1.2345e7, "12,300,000")]
)
def test_epochs_are_never_shown_as_a_power_of_ten(epochs: float, shown: str) -> None:
    assert shown_epochs(epochs) == shown
