"""A plan that computes beginnings once: what it saves, what it costs then, and where it is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.errors import UserError
from ft_dagster.planning.packed_rows import ExampleLengths, counted_lengths, with_shared
from ft_dagster.planning.plan import PlanAndEstimate, make_plan
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.spec.training import TrainingSpec
from ft_dagster.training.batches.beginnings import computed
from ft_dagster.training.batches.mixture import open_split
from ft_dagster.training.batches.packing import epoch_bins, schedule, total_steps
from tests.planning.llama import spec
from tests.planning.small import given
from tests.present import present
from tests.training.batches.made_examples import examples_of
from tests.training.runs import write_shard

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


def test_what_is_counted_of_a_mixture_is_what_its_training_computes(
    small: PlanContext, tmp_path: Path
) -> None:
    rows = [([*range(10, 40), 100 + i, 200 + i], [30, 32]) for i in range(20)]
    write_shard(tmp_path / "train" / "shard-00000.parquet", "train", 0, rows)
    tokens = {"documents": 20, "examples": 20, "tokens": 640, "trained_tokens": 40, "shards": []}
    figures = MixtureFigures.from_json({
        "tokenizer": "", "max_length": 64, "seed": 0, "order": "", "longest": 32, "dropped": {},
        "splits": {"train": {**tokens, "by_source": {}}}, "general_share": {"asked": 0.0, "realized": 0.0},
    })  # fmt: skip
    on, off = (TrainingSpec.model_validate({"share_beginnings": said}) for said in ("on", "off"))
    known = replace(given(small, 400), tokens=640, max_length=64)
    train = present(open_split(tmp_path, "train", tmp_path)).sharing(64)
    bins = epoch_bins(train.lengths, train.shards, 64, on.seed, 0, train.beginnings)
    taken = sum(computed(train.parts(ordinals)) for ordinals in bins)
    assert with_shared(known, counted_lengths(tmp_path, figures, on), on).computed == taken < 320
    assert with_shared(known, counted_lengths(tmp_path, figures, off), off) == known
