"""A footprint over devices: what is spread, what is copied, what leaves the device, what comes on top."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from ft_dagster.errors import UserError
from ft_dagster.planning.dryrun.footprint import Footprint, Moment
from ft_dagster.planning.dryrun.occupancy import (
    ALLOCATOR_SLACK,
    CPU_CONTEXT,
    LIVE_WEIGHTS,
    NCCL_BUFFERS,
    SUB_GROUP,
    Sharding,
    occupancy,
)
from ft_dagster.planning.dryrun.step import Step
from ft_dagster.planning.memory_formula import CUDA_CONTEXT

STEP = Step(rows=1, length=512, trained_positions=256)
P = 8_000_000_000  # weights
RANKS = 8
SMALL = 1000  # weights of a communication, so that buckets do not count


def full(**step: Any) -> Footprint:
    """Full fine-tuning of P weights, 5 GB of activations; sharded, weights and gradients are in bf16."""
    given = replace(STEP, **step)
    width = 2 if given.sharded and given.precision == "bf16" else 4
    states = 0 if given.sharded else 8 * P
    forward = Moment(0, width * P, 0, states, 5 * 10**9, 10**9)
    after = Moment(0, width * P, width * P, states, 0, 0)
    return Footprint("full", given, {"forward": forward, "layer 0": after, "step": after}, P, 0, True)


def adapter(**step: Any) -> Footprint:
    """40 GB of frozen weights beneath a hundred million trained ones."""
    given, trained = replace(STEP, **step), 10**8
    moment = Moment(40 * 10**9, 4 * trained, 4 * trained, 8 * trained, 10**9, 10**8)
    return Footprint("lora", given, {"layer -1": moment}, trained, 20 * 10**9, True)


def test_one_process_on_a_cpu_holds_the_footprint() -> None:
    found = occupancy(full(), Sharding())
    assert found.reserved == full().peak == 16 * P
    assert (found.context, found.slack, found.offloaded, found.phase) == (CPU_CONTEXT, 0, 0, "layer 0")


def test_a_gpu_adds_its_context_and_the_allocator_s_slack_of_all_but_the_frozen_base() -> None:
    given = adapter(device="cuda")
    found = occupancy(given, Sharding())
    tensors = given.peak
    assert found.context == CUDA_CONTEXT
    assert found.slack == round(ALLOCATOR_SLACK * (tensors - 40 * 10**9))
    assert found.reserved == tensors + found.slack
    assert found.total == found.reserved + CUDA_CONTEXT


def test_copies_spread_nothing_and_hold_a_second_set_of_gradients() -> None:
    alone, copied = (occupancy(adapter(), Sharding(ranks=ranks)) for ranks in (1, RANKS))
    assert copied.total - alone.total == copied.communication == 4 * 10**8


def test_gpus_that_train_together_hold_nccl_s_buffers() -> None:
    alone, together = (occupancy(full(device="cuda"), Sharding(ranks=ranks)) for ranks in (1, 2))
    assert together.communication - alone.communication == 4 * P + NCCL_BUFFERS


@pytest.mark.parametrize(
    ("stage", "precision", "bytes_a_weight"),
    [
        (2, "bf16", 2 + (2 + 12) / RANKS),
        (3, "bf16", (2 + 2 + 12) / RANKS),
        (2, "fp32", 4 + (4 + 12) / RANKS),
        (3, "fp32", (4 + 4 + 8) / RANKS),
    ],
)
def test_what_full_keeps_of_a_weight_on_each_of_eight_ranks(
    stage: Literal[0, 2, 3], precision: str, bytes_a_weight: float
) -> None:
    given = full(sharded=True, precision=precision)
    given = replace(given, moments={"layer 0": given.moments["layer 0"]})
    found = occupancy(given, Sharding(ranks=RANKS, stage=stage, bucket=SMALL))
    kept = found.frozen + found.trained + found.gradients + found.states
    assert kept == pytest.approx(bytes_a_weight * P, rel=1e-6)


@pytest.mark.parametrize(("stage", "frozen"), [(2, 40e9), (3, 5e9)])
def test_only_stage_3_spreads_a_frozen_base(stage: Literal[0, 2, 3], frozen: float) -> None:
    found = occupancy(adapter(sharded=True), Sharding(ranks=RANKS, stage=stage))
    assert found.frozen == frozen


def test_activations_are_each_rank_s_own() -> None:
    for stage in (2, 3):
        given = replace(full(sharded=True), moments={"forward": full(sharded=True).moments["forward"]})
        assert occupancy(given, Sharding(ranks=RANKS, stage=stage)).activations == 5 * 10**9


def test_stage_3_holds_the_weights_gathered_at_once() -> None:
    found = occupancy(full(sharded=True), Sharding(ranks=RANKS, stage=3, bucket=SMALL))
    assert found.communication == 2 * LIVE_WEIGHTS + 2 * SMALL


def test_a_bucket_is_doubled_where_its_sending_overlaps() -> None:
    cpu, gpu = (
        occupancy(full(sharded=True, device=device), Sharding(ranks=RANKS, stage=2))
        for device in ("cpu", "cuda")
    )
    assert cpu.communication == 2 * 500_000_000
    assert gpu.communication == 2 * 2 * 500_000_000 + NCCL_BUFFERS


def test_stage_3_steps_a_group_of_weights_at_a_time() -> None:
    given = full(sharded=True)
    given = replace(given, moments={"step": given.moments["step"]})
    few, many = (occupancy(given, Sharding(ranks=ranks, stage=3)).temporaries for ranks in (2, RANKS))
    assert few == 8 * SUB_GROUP
    assert many == 8 * P // RANKS


@pytest.mark.parametrize(("stage", "kept"), [(2, 2 * P), (3, 0)])
def test_offload_takes_states_and_gradients_off_the_device_and_loses_nothing(
    stage: Literal[0, 2, 3], kept: int
) -> None:
    found = occupancy(full(sharded=True), Sharding(ranks=RANKS, stage=stage, offload="cpu"))
    assert found.states == found.gradients == 0
    assert found.frozen + found.trained == kept
    shards = 16 * P // RANKS + (2 * P // RANKS if stage == 3 else 0)
    assert found.offloaded == shards


def test_offload_without_zero_is_refused() -> None:
    with pytest.raises(UserError) as error:
        occupancy(full(), Sharding(offload="cpu"))
    assert error.value.field == "offload"


def test_no_rank_is_refused() -> None:
    with pytest.raises(UserError) as error:
        occupancy(full(), Sharding(ranks=0))
    assert error.value.field == "ranks"


@pytest.mark.parametrize(("sharded", "stage"), [(True, 0), (False, 3)])
def test_a_footprint_of_another_precision_is_not_taken(sharded: bool, stage: Literal[0, 2, 3]) -> None:
    with pytest.raises(ValueError, match="sharded"):
        occupancy(full(sharded=sharded), Sharding(ranks=RANKS, stage=stage))
