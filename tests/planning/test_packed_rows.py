"""A plan's steps are those that the trainer will take: it packs the same examples in the same way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ft_dagster.planning.packed_rows import MOST_EXAMPLES, ExampleLengths, read_lengths
from ft_dagster.planning.plan import make_plan
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.spec.training import TrainingSettings
from ft_dagster.training.batches.mixture import open_split
from ft_dagster.training.batches.packing import schedule, total_steps
from tests.planning.llama import spec
from tests.planning.small import given
from tests.present import present
from tests.training.runs import TRAINING, write_mixture


def settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings.model_validate({**TRAINING, **changes})


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    "changes", [{}, {"packing": False}, {"num_train_epochs": 2.5}, {"max_steps": 7}, {"seed": 3}]
)
def test_the_steps_of_a_plan_are_those_of_its_training(
    tmp_path: Path, changes: dict[str, Any], ranks: int
) -> None:
    mixture, training = write_mixture(tmp_path), settings(**changes)
    train = present(open_split(mixture, "train", tmp_path))
    capacity = training.max_length if training.packing else None
    bins = schedule(train.lengths, train.shards, training, capacity, training.seed, ranks)
    assert read_lengths(mixture).steps(training, ranks) == total_steps(len(bins), training, ranks)


def test_what_would_take_long_to_pack_is_not_packed_for_a_plan() -> None:
    many = ExampleLengths(np.full(MOST_EXAMPLES, 10), (MOST_EXAMPLES,))
    assert many.steps(settings(num_train_epochs=1.1), 1) is None
    assert many.steps(settings(max_steps=7), 1) == 7


@pytest.mark.slow
def test_a_plan_says_the_counted_steps_and_else_estimates_them(small: PlanContext) -> None:
    facts = given(small, 400)
    estimated = make_plan(spec(method="lora"), facts, small).estimate.steps
    lengths = ExampleLengths(np.full(400, 129), (400,))  # of 50 on average by the facts, and no two fit a row
    counted = make_plan(spec(method="lora"), facts, replace(small, lengths=lengths)).estimate
    assert counted.steps == lengths.steps(TrainingSettings.model_validate(counted.plan.training), 1)
    assert counted.steps > 2 * estimated
