"""Packs whole examples into bounded bins: a pure function of example lengths, plan, seed and epoch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ft_dagster.spec.training import TrainingSettings
from ft_dagster.training.batches.beginnings import Beginnings

WIDE, STEP = 256, 32  # tokens of a row
OPEN_BINS = 64  # bounds the search and keeps an example near its place in the epoch's order
Lengths = NDArray[np.int64]
Bin = list[int]


def epoch_order(shards: Sequence[int], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the ordinals of all examples in the order of one epoch: shards permuted, then the rows within
    each.

    `shards` is the number of examples of each shard. The stream is numpy's frozen MT19937.
    """
    key = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    random = np.random.RandomState(np.frombuffer(key, dtype=np.uint32))
    firsts = np.concatenate([[0], np.cumsum(shards)]).astype(np.int64)
    parts = [firsts[shard] + random.permutation(shards[shard]) for shard in random.permutation(len(shards))]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)


def pack(lengths: Lengths, order: NDArray[np.int64], capacity: int) -> list[Bin]:
    """Pack the examples first-fit, in `order`, into bins of `capacity` tokens; of too many open bins the
    fullest is closed.
    """
    packed: list[Bin] = []
    opened: list[Bin] = []
    room = np.zeros(OPEN_BINS + 1, np.int64)
    for ordinal in order.tolist():
        length = int(lengths[ordinal])
        fits = np.flatnonzero(room[: len(opened)] >= length)
        if len(fits):
            place = int(fits[0])
            opened[place].append(ordinal)
        else:
            place = len(opened)
            opened.append([ordinal])
            room[place] = capacity
        room[place] -= length
        if len(opened) > OPEN_BINS:
            fullest = int(room.argmin())
            packed.append(opened.pop(fullest))
            room[fullest:-1] = room[fullest + 1 :].copy()
    return packed + opened


def pack_alike(
    lengths: Lengths, order: NDArray[np.int64], capacity: int, beginnings: Beginnings
) -> list[Bin]:
    """Pack as `pack`, where examples that begin alike lie side by side and their beginning takes room once.

    Those of one beginning are packed first, beside it, in `order`; such a block then has the place of its
    first example.
    """
    own, kinds = lengths - beginnings.by_example, beginnings.kinds[order]
    blocks: list[Bin] = [[ordinal] for ordinal in order[kinds < 0].tolist()]
    sizes = lengths[order[kinds < 0]].tolist()
    by_kind = np.argsort(kinds, kind="stable")[len(blocks) :]
    for members in np.split(order[by_kind], np.flatnonzero(np.diff(kinds[by_kind])) + 1):
        if len(members):
            shared = int(beginnings.lengths[beginnings.kinds[members[0]]])
            found = pack(own, members, capacity - shared)
            blocks += found
            sizes += [shared + int(own[block].sum()) for block in found]
    places = np.empty(len(lengths), np.int64)
    places[order] = np.arange(len(order))
    in_order = np.argsort([places[block[0]] for block in blocks])
    bins = pack(np.array(sizes, np.int64), in_order, capacity)
    return [[ordinal for number in numbers for ordinal in blocks[number]] for numbers in bins]


def epoch_bins(  # noqa: PLR0917
    lengths: Lengths,
    shards: Sequence[int],
    capacity: int | None,
    seed: int,
    epoch: int,
    beginnings: Beginnings | None = None,
) -> list[Bin]:
    """Return the bins of one epoch, in the order in which they are trained on; no capacity: one example
    each. `beginnings`: what examples have in common and compute once.
    """
    order = epoch_order(shards, seed, epoch)
    if capacity is None:
        return [[ordinal] for ordinal in order.tolist()]
    if beginnings is not None:
        return pack_alike(lengths, order, capacity, beginnings)
    return pack(lengths, order, capacity)


def schedule(  # noqa: PLR0917
    lengths: Lengths,
    shards: Sequence[int],
    settings: TrainingSettings,
    capacity: int | None,
    seed: int,
    ranks: int = 1,
    beginnings: Beginnings | None = None,
) -> list[Bin]:
    """Return all bins of the training, in order: `max_steps` of them if given, else `num_train_epochs`.

    Over several ranks, empty bins fill up the last micro-batches: each rank gets as many as the others.
    """
    bins = _bins(lengths, shards, settings, capacity, seed, ranks, beginnings)
    missing = -len(bins) % (settings.per_device_train_batch_size * ranks) if ranks > 1 else 0
    return bins + [[] for _ in range(missing)]


def _bins(  # noqa: PLR0917
    lengths: Lengths,
    shards: Sequence[int],
    settings: TrainingSettings,
    capacity: int | None,
    seed: int,
    ranks: int,
    beginnings: Beginnings | None,
) -> list[Bin]:
    bins_a_step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps * ranks
    wanted = None if settings.max_steps is None else settings.max_steps * bins_a_step
    bins: list[Bin] = []
    for epoch, share in _epochs(settings.num_train_epochs if wanted is None else math.inf):
        packed = epoch_bins(lengths, shards, capacity, seed, epoch, beginnings)
        bins += packed[: math.ceil(share * len(packed))]
        if wanted is not None and len(bins) >= wanted:
            return bins[:wanted]
    return bins


def total_steps(bins: int, settings: TrainingSettings, ranks: int = 1) -> int:
    batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps * ranks
    return math.ceil(bins / batch)


def first_pass_steps(  # noqa: PLR0917
    lengths: Lengths,
    shards: Sequence[int],
    settings: TrainingSettings,
    capacity: int | None,
    seed: int,
    ranks: int = 1,
    beginnings: Beginnings | None = None,
) -> int:
    """Count the steps until each example was read once, or until the training ends before that."""
    bins = len(schedule(lengths, shards, settings, capacity, seed, ranks, beginnings))
    once = len(epoch_bins(lengths, shards, capacity, seed, 0, beginnings))
    return total_steps(min(bins, once), settings, ranks)


def bins_of_steps(bins: Sequence[Bin], settings: TrainingSettings, ranks: int = 1) -> Iterator[list[Bin]]:
    """Yield the bins of each optimizer step, of all ranks."""
    batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps * ranks
    for first in range(0, len(bins), batch):
        yield list(bins[first : first + batch])


def width_of(longest: int, max_length: int) -> int:
    """Return the width of rows: wide ones in steps of 32, so that most steps ask the allocator for what the
    last one freed.
    """
    stepped = longest if longest <= WIDE else -(-longest // STEP) * STEP
    return max(2, longest, min(stepped, max_length))


def evaluation_steps(steps: int, evaluations: int) -> list[int]:
    """Return the steps at which validation loss is measured and a checkpoint written: evenly spaced, the last
    step among them.
    """
    return sorted({max(1, round(steps * i / evaluations)) for i in range(1, evaluations + 1)})


def fewer_evaluations(at: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield steps to measure at, ever fewer of them: all, every second, every fourth, to the last one alone.

    Each is a part of the one before, so that trainings which can pay for different numbers meet at some.
    """
    yield at
    while len(at) > 1:
        at = at[::-2][::-1]
        yield at


def _epochs(count: float) -> Iterator[tuple[int, float]]:
    epoch = 0
    while epoch < count:
        yield epoch, min(1.0, count - epoch)
        epoch += 1
