"""A plan that computes beginnings once: what it saves, what it costs then, and where it is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.planning.packed_rows import ExampleLengths
from ft_dagster.planning.plan import PlanAndEstimate, make_plan
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.spec.training import TrainingSpec
from ft_dagster.training.batches.packing import schedule, total_steps
from tests.planning.llama import spec
from tests.planning.small import given
from tests.present import present
from tests.training.batches.made_examples import examples_of

pytestmark = pytest.mark.slow
ROW = 256


def lengths(*, shares: bool = True) -> ExampleLengths:
    """400 examples of 50 tokens, 30 of them alike."""
    same = list(range(10, 40))
    found = examples_of([same + [100 + 3 * i + n for n in range(20)] for i in range(400)])
    found = found.sharing(ROW) if shares else found
    return ExampleLengths(found.lengths, found.shards, found.beginnings)


def planned(small: PlanContext, said: str, *, method: Any = "lora", **facts: Any) -> PlanAndEstimate:
    known = replace(given(small, 400), longest=50, **facts)
    counted = replace(small, lengths=lengths(shares=said == "on"))
    return make_plan(spec(method=method, training={"share_beginnings": said}), known, counted)


def test_it_says_what_it_saves_and_costs_as_much_less(small: PlanContext) -> None:
    on, off = (planned(small, said) for said in ("on", "off"))
    training, counted = on.content.training, lengths()
    bins = schedule(
        counted.lengths, counted.shards, training.model_copy(update={"num_train_epochs": 1.0}), ROW, 0,
        beginnings=counted.beginnings,
    )  # fmt: skip
    taken = sum(counted._computed(ordinals) for ordinals in bins)
    (reason,) = [row for row in on.estimate.plan.reasons if row.field == "training.share_beginnings"]
    assert (
        reason.reason == f"{taken:,} of 20,000 tokens a pass are computed, {20_000 / taken:.2f} times fewer"
    )
    hours = [present(each.estimate.predicted.training_hours) for each in (on, off)]
    assert hours[0] / hours[1] == pytest.approx(taken / 20_000, rel=0.1)
    every = schedule(counted.lengths, counted.shards, training, ROW, 0, beginnings=counted.beginnings)
    assert on.estimate.steps == total_steps(len(every), training)


def test_a_plan_that_says_nothing_of_it_is_what_it_was(small: PlanContext) -> None:
    plan = make_plan(spec(method="lora"), given(small, 400), small)
    assert "share_beginnings" not in plan.content.to_json()["training"]
    assert "training.share_beginnings" not in {row.field for row in plan.estimate.plan.reasons}
    assert planned(small, "on").content.to_json()["training"]["share_beginnings"] == "on"


def test_yaml_reads_on_and_off_as_truth_values_and_both_are_taken() -> None:
    said = [TrainingSpec.model_validate({"share_beginnings": value}) for value in (True, False, "on", "off")]
    assert [each.share_beginnings for each in said] == ["on", "off", "on", "off"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"method": {"name": "lora", "dropout": 0.1}}, "dropout"),
        ({"method": "prompt_tuning"}, "not packed"),
        ({"device_kind": "cuda"}, "GPU"),
        ({"leak": "the second moved"}, "not packed"),
        ({"method": "auto", "device_kind": "cuda"}, "GPU"),
    ],
)
def test_it_is_refused_where_it_cannot_hold(small: PlanContext, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why) as refused:
        planned(small, "on", **changes)
    assert refused.value.field == "training.share_beginnings"


def test_what_auto_chooses_is_among_the_methods_for_which_it_holds(small: PlanContext) -> None:
    estimate = planned(small, "on", method="auto").estimate
    assert {"prompt_tuning", "prefix_tuning", "lora_8bit"} <= set(estimate.refused)
    assert estimate.method in {"lora", "full", "qlora"}
