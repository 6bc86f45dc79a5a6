"""How a training is laid out on GPUs whose memory is known: as fast as it fits, the batch left as it is.

A pure search over a function that says how many bytes one device holds at a layout. Of what the declaration
leaves open, ZeRO-2 is taken before gradient checkpointing, since it sends no more than copies do, and ZeRO-3
last, which sends half as much again (Rajbhandari et al., ZeRO, section 7). The micro-batch is the largest
part of the batch that fits; accumulation makes up for the rest: what a step learns from stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ft_dagster.planning.layout import ROOM, Layout, Stage
from ft_dagster.planning.methods.sharding import STAGES
from ft_dagster.spec.variant import TrainingSpec

ENOUGH = 1024  # tokens of a micro-batch, from which a GPU's products are about as fast as they get


@dataclass(frozen=True)
class Open:
    """What may be chosen: micro-batches (ascending), checkpointing, ZeRO stages."""

    micro_batches: Sequence[int]
    checkpointing: Sequence[bool]
    stages: Sequence[Stage]


def parts_of(rows: int) -> tuple[int, ...]:
    """The micro-batches that make up a batch of so many rows: its divisors, ascending."""
    return tuple(size for size in range(1, rows + 1) if rows % size == 0)


def left_open(declared: TrainingSpec, first: Layout, accumulation: int) -> Open:
    """What `declared` does not say. `first`: as resolved, its micro-batch so often in a batch. Where only the
    accumulation is declared, a larger micro-batch would be a larger batch.
    """
    sizes: tuple[int, ...] = (first.micro_batch,)
    if declared.per_device_train_batch_size is None:
        whole = declared.gradient_accumulation_steps is None
        sizes = parts_of(first.micro_batch * accumulation) if whole else parts_of(first.micro_batch)
    undecided = declared.gradient_checkpointing is None and first.method != "prefix_tuning"
    shards = declared.deepspeed.stage == "auto" and first.offload == "none" and first.gpus > 1
    return Open(
        sizes,
        (False, True) if undecided else (first.gradient_checkpointing,),
        STAGES.get(first.method, (0,)) if shards else (first.zero_stage,),
    )


def filled(
    first: Layout,
    free: Open,
    bytes_of: Callable[[Layout], int],
    hopeless: Callable[[Layout], bool],
    memory: int,
) -> Layout | None:
    """The layout of `free` that fits into ROOM of `memory` and costs least time; None where none does.

    A cheaper stage or no checkpointing is not worth a micro-batch of less than ENOUGH tokens, where more of
    them would fit otherwise. `bytes_of` is not called where a layout is `hopeless`.
    """
    found: list[Layout] = []
    pairs = [(stage, again) for stage in free.stages for again in free.checkpointing]
    for stage, again in sorted(pairs, key=lambda pair: (pair[0] == 3, pair[1], pair[0])):
        layout = replace(first, zero_stage=stage, gradient_checkpointing=again)
        size = _largest(layout, free.micro_batches, bytes_of, hopeless, int(ROOM * memory))
        if size is None:
            continue
        found.append(replace(layout, micro_batch=size))
        if size == free.micro_batches[-1] or size * layout.length >= ENOUGH:
            return found[-1]
    return max(found, key=lambda layout: layout.micro_batch, default=None)


def _largest(
    layout: Layout,
    sizes: Sequence[int],
    bytes_of: Callable[[Layout], int],
    hopeless: Callable[[Layout], bool],
    most: int,
) -> int | None:
    """The largest of `sizes` that takes at most so many bytes: tried, then guessed on a line and tried."""

    def taken(size: int) -> int:
        return bytes_of(replace(layout, micro_batch=size))

    if hopeless(replace(layout, micro_batch=sizes[0])):
        return None
    at_most = taken(sizes[-1])
    if at_most <= most:
        return sizes[-1]
    at_least = taken(sizes[0])
    if at_least > most:
        return None
    each = (at_most - at_least) / (sizes[-1] - sizes[0])
    guessed = [size for size in sizes if at_least + each * (size - sizes[0]) <= most]
    return next(size for size in reversed(guessed) if size == sizes[0] or taken(size) <= most)
