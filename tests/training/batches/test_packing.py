"""Packing and the schedule of a training: pure functions."""

from __future__ import annotations

import numpy as np
import pytest

from ft_dagster.spec.training import TrainingSettings
from ft_dagster.training.batches.packing import (
    epoch_bins,
    epoch_order,
    evaluation_steps,
    fewer_evaluations,
    pack,
    schedule,
    total_steps,
)

LENGTHS = np.random.RandomState(0).randint(5, 100, 500).astype(np.int64)
SHARDS = (200, 180, 120)


def settings(**changes: object) -> TrainingSettings:
    values = {
        "learning_rate": 1e-4,
        "num_train_epochs": 1.0,
        "per_device_train_batch_size": 2,
        "max_length": 128,
    }
    return TrainingSettings.model_validate({**values, "gradient_accumulation_steps": 3, **changes})


def test_every_example_is_in_exactly_one_bin_of_an_epoch() -> None:
    bins = epoch_bins(LENGTHS, SHARDS, 128, seed=1, epoch=0)
    assert sorted(ordinal for ordinals in bins for ordinal in ordinals) == list(range(500))


def test_no_bin_is_longer_than_its_capacity() -> None:
    assert max(int(LENGTHS[b].sum()) for b in epoch_bins(LENGTHS, SHARDS, 128, seed=1, epoch=0)) <= 128


def test_bins_are_nearly_full() -> None:
    assert LENGTHS.sum() / (128 * len(epoch_bins(LENGTHS, SHARDS, 128, seed=1, epoch=0))) > 0.95


def test_an_example_as_long_as_the_bin_has_it_alone() -> None:
    assert pack(np.array([8, 3, 5]), np.array([0, 1, 2]), 8) == [[0], [1, 2]]


def test_without_packing_each_example_is_a_bin_in_the_epochs_order() -> None:
    bins = epoch_bins(LENGTHS, SHARDS, None, seed=1, epoch=2)
    assert bins == [[ordinal] for ordinal in epoch_order(SHARDS, 1, 2).tolist()]


def test_the_order_permutes_shards_and_the_rows_within_them() -> None:
    shard_of = np.repeat([0, 1, 2], SHARDS)[epoch_order(SHARDS, seed=3, epoch=0)]
    assert np.count_nonzero(np.diff(shard_of)) == 2


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    orders = [tuple(epoch_order(SHARDS, seed, epoch)) for seed, epoch in [(0, 0), (0, 0), (0, 1), (1, 0)]]
    assert (orders[0] == orders[1], len(set(orders))) == (True, 3)


def test_the_order_of_a_seed_never_changes() -> None:
    assert epoch_order([3, 4], seed=0, epoch=0).tolist() == [5, 6, 4, 3, 2, 0, 1]


def test_a_fraction_of_an_epoch_ends_within_it() -> None:
    whole = schedule(LENGTHS, SHARDS, settings(), 128, seed=0)
    half_more = schedule(LENGTHS, SHARDS, settings(num_train_epochs=1.5), 128, seed=0)
    second = epoch_bins(LENGTHS, SHARDS, 128, seed=0, epoch=1)
    assert half_more == whole + second[: -(-len(second) // 2)]


@pytest.mark.parametrize("steps", [1, 7, 200])
def test_max_steps_overrides_the_epochs(steps: int) -> None:
    chosen = settings(max_steps=steps, num_train_epochs=3.0)
    assert total_steps(len(schedule(LENGTHS, SHARDS, chosen, 128, seed=0)), chosen) == steps


def test_evaluations_are_spread_over_the_training_and_include_its_end() -> None:
    assert [evaluation_steps(64, 4), evaluation_steps(3, 8)] == [[16, 32, 48, 64], [1, 2, 3]]
    assert list(fewer_evaluations([1, 2, 3, 4, 5])) == [[1, 2, 3, 4, 5], [1, 3, 5], [1, 5], [5]]
    assert list(fewer_evaluations([7])) == [[7]]
