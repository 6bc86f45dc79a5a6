"""A GPU's memory is filled: which layout is taken, of the same batch, for a model of so many bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ft_dagster.planning.layout import Layout
from ft_dagster.planning.methods.layout_search import (
    SearchSpace,
    divisors,
    fastest_that_fits,
    search_space,
)
from ft_dagster.spec.training import DeepspeedSpec, TrainingSpec

FIRST = Layout("full", 1, gradient_checkpointing=False, length=512, zero_stage=0, gpus=8)
ALL = SearchSpace((1, 2, 4, 8), (False, True), (0, 2, 3))
MEMORY = 1000


def model(states: int, row: int) -> Callable[[Layout], int]:
    """Bytes: states, a quarter of them under ZeRO-2 and an eighth under ZeRO-3; a row, a fifth of it where
    activations are computed again.
    """

    def bytes_of(layout: Layout) -> int:
        held = {0: states, 2: states // 4, 3: states // 8}[layout.zero_stage]
        return held + layout.micro_batch * (row // 5 if layout.gradient_checkpointing else row)

    return bytes_of


def chosen(
    states: int, row: int, free: SearchSpace = ALL, first: Layout = FIRST
) -> tuple[int, bool, int] | None:
    """Micro-batch, checkpointing, stage."""
    layout = fastest_that_fits(first, free, model(states, row), lambda _: False, MEMORY)
    return None if layout is None else (layout.micro_batch, layout.gradient_checkpointing, layout.zero_stage)


@pytest.mark.parametrize(
    ("states", "row", "expected"),
    [
        (100, 100, (8, False, 0)),  # all fits: the whole batch at once
        (100, 101, (4, False, 0)),  # 908 is above nine tenths: half of it, twice
        (800, 100, (4, False, 2)),  # copies leave room for one row alone: 512 tokens
        (800, 40, (2, False, 0)),  # and here for 1024, which is enough
        (3000, 100, (4, True, 2)),  # one row, or four computed again: that is before ZeRO-3
        (3600, 100, (4, False, 3)),  # ZeRO-2 does not fit
        (7000, 100, (1, True, 3)),
        (8000, 100, None),
    ],
)
def test_the_cheapest_layout_that_fits_is_taken(
    states: int, row: int, expected: tuple[int, bool, int] | None
) -> None:
    assert chosen(states, row) == expected


def test_a_tenth_of_the_memory_is_left() -> None:
    assert chosen(800, 100, SearchSpace((1,), (False,), (0,))) == (1, False, 0)
    assert chosen(801, 100, SearchSpace((1,), (False,), (0,))) is None


def test_what_is_hopeless_is_not_run() -> None:
    run: list[Layout] = []

    def bytes_of(layout: Layout) -> int:
        run.append(layout)
        return 100

    fastest_that_fits(FIRST, ALL, bytes_of, lambda layout: layout.zero_stage < 3, MEMORY)
    assert {layout.zero_stage for layout in run} == {3}


def test_few_dry_runs_find_the_largest_micro_batch() -> None:
    run: list[int] = []

    def bytes_of(layout: Layout) -> int:
        run.append(layout.micro_batch)
        return 100 + 40 * layout.micro_batch

    free = SearchSpace(divisors(48), (False,), (0,))
    layout = fastest_that_fits(FIRST, free, bytes_of, lambda _: False, MEMORY)
    assert layout is not None
    assert layout.micro_batch == 16
    assert run == [48, 6, 16, 24]


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ({1: 0, 2: 800, 4: 950, 8: 1000}, 2),
        ({1: 800, 2: 800, 4: 800, 8: 890, 16: 2000}, 8),  # the peak is in another phase than activations
    ],
)
def test_the_largest_that_fits_is_found_though_bytes_are_on_no_line(
    taken: dict[int, int], expected: int
) -> None:
    free = SearchSpace(tuple(taken), (False,), (0,))
    layout = fastest_that_fits(FIRST, free, lambda at: taken[at.micro_batch], lambda _: False, 1000)
    assert layout is not None
    assert layout.micro_batch == expected


def test_the_parts_of_a_batch_are_its_divisors() -> None:
    assert divisors(12) == (1, 2, 3, 4, 6, 12)
    assert divisors(1) == (1,)


@pytest.mark.parametrize(
    ("declared", "method", "expected"),
    [
        ({}, "full", SearchSpace((1, 2, 4), (False, True), (0, 2, 3))),
        ({}, "lora", SearchSpace((1, 2, 4), (False, True), (0, 3))),
        ({}, "lora_8bit", SearchSpace((1, 2, 4), (False, True), (0,))),
        ({}, "prefix_tuning", SearchSpace((1, 2, 4), (False,), (0,))),
        ({"per_device_train_batch_size": 1}, "full", SearchSpace((1,), (False, True), (0, 2, 3))),
        ({"gradient_accumulation_steps": 4}, "full", SearchSpace((1,), (False, True), (0, 2, 3))),
        ({"gradient_checkpointing": False}, "full", SearchSpace((1, 2, 4), (False,), (0, 2, 3))),
        ({"deepspeed": DeepspeedSpec(stage=0)}, "full", SearchSpace((1, 2, 4), (False, True), (0,))),
    ],
)
def test_only_what_is_not_declared_is_open(
    declared: dict[str, object], method: str, expected: SearchSpace
) -> None:
    first = Layout(method, 1, gradient_checkpointing=False, length=512, gpus=2)
    assert search_space(TrainingSpec().model_copy(update=declared), first, 4) == expected


def test_one_gpu_has_nothing_to_shard() -> None:
    assert search_space(TrainingSpec(), Layout("full", 1, False, 512), 1).stages == (0,)
