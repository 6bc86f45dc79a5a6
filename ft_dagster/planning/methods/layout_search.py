"""Lays out a training on GPUs whose memory is known: as fast as it fits, the batch left as it is.

A pure search over a function that says how many bytes one device holds at a layout. Of what the declaration
leaves open, ZeRO-2 is taken before gradient checkpointing, since it sends no more than copies do, and ZeRO-3
last, which sends half as much again (Rajbhandari et al., ZeRO, section 7). The micro-batch is the largest
part of the batch that fits; accumulation makes up for the rest: what a step learns from stays the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ft_dagster.evaluation.models.arithmetic import USABLE_SHARE
from ft_dagster.methods import method_of
from ft_dagster.planning.layout import Layout, Stage
from ft_dagster.spec.training import TrainingSpec

EFFICIENT_TOKENS = 1024  # tokens of a micro-batch, from which a GPU's products are about as fast as they get


@dataclass(frozen=True)
class SearchSpace:
    """Names what may be chosen: micro-batches (ascending), checkpointing, ZeRO stages."""

    micro_batches: Sequence[int]
    checkpointing: Sequence[bool]
    stages: Sequence[Stage]


def divisors(rows: int) -> tuple[int, ...]:
    """Return the micro-batches that make up a batch of so many rows: its divisors, ascending."""
    return tuple(size for size in range(1, rows + 1) if rows % size == 0)


def search_space(declared: TrainingSpec, first: Layout, accumulation: int) -> SearchSpace:
    """Return what `declared` does not say. `first`: as resolved, its micro-batch so often in a batch. Where
    either of both is declared, another micro-batch would be another batch.
    """
    batch = (declared.per_device_train_batch_size, declared.gradient_accumulation_steps)
    divisible = batch == (None, None)
    sizes = divisors(first.micro_batch * accumulation) if divisible else (first.micro_batch,)
    known = method_of(first.method)
    undecided = declared.gradient_checkpointing is None and known.recomputes
    shards = declared.deepspeed.stage == "auto" and first.offload == "none" and first.gpus > 1
    return SearchSpace(
        sizes,
        (False, True) if undecided else (first.gradient_checkpointing,),
        known.zero_stages if shards else (first.zero_stage,),
    )


def fastest_that_fits(
    first: Layout,
    free: SearchSpace,
    bytes_of: Callable[[Layout], int],
    hopeless: Callable[[Layout], bool],
    memory: int,
) -> Layout | None:
    """Return the layout of `free` that fits into USABLE_SHARE of `memory` and costs least time; None: none
    does.

    A cheaper stage or no checkpointing is not worth a micro-batch of less than EFFICIENT_TOKENS tokens, where
    more of them would fit otherwise. `bytes_of` is not called where a layout is `hopeless`.
    """
    found: list[Layout] = []
    pairs = [(stage, recompute) for stage in free.stages for recompute in free.checkpointing]
    for stage, recompute in sorted(pairs, key=lambda pair: (pair[0] == 3, pair[1], pair[0])):
        layout = replace(first, zero_stage=stage, gradient_checkpointing=recompute)
        size = _largest(layout, free.micro_batches, bytes_of, hopeless, int(USABLE_SHARE * memory))
        if size is None:
            continue
        found.append(replace(layout, micro_batch=size))
        if size == free.micro_batches[-1] or size * layout.length >= EFFICIENT_TOKENS:
            return found[-1]
    return max(found, key=lambda layout: layout.micro_batch, default=None)


def _largest(
    layout: Layout,
    sizes: Sequence[int],
    bytes_of: Callable[[Layout], int],
    hopeless: Callable[[Layout], bool],
    most: int,
) -> int | None:
    """Return the largest of `sizes` that takes at most so many bytes: all, else by bisection."""

    def exceeds(size: int) -> bool:
        return bytes_of(replace(layout, micro_batch=size)) > most

    if hopeless(replace(layout, micro_batch=sizes[0])):
        return None
    if not exceeds(sizes[-1]):
        return sizes[-1]
    fitting = bisect_left(sizes, True, hi=len(sizes) - 1, key=exceeds)
    return sizes[fitting - 1] if fitting else None
