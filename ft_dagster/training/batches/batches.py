"""Turns bins into tensors: examples side by side, each with positions of its own and no attention mask.

`attention.py` attends to each by its length. Where it does not apply, transformers derives a block-diagonal
mask from where `position_ids` restart, with `attention_mask` absent and the cache off: an all-ones mask, or
the cache, would silently let examples see each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ft_dagster.spec.training import TrainingSettings
from ft_dagster.training.batches.attention import AFTER, ENDS, LENGTHS, TIMES, Batch, ends_of
from ft_dagster.training.batches.beginnings import Part, computed
from ft_dagster.training.batches.mixture import Examples
from ft_dagster.training.batches.packing import Bin, bins_of_steps, width_of

Row = NDArray[np.int64]


class Collator:
    """Turns rows {"bin": [ordinal, …]} into one micro-batch.

    input_ids, labels (-100: not trained on), position_ids: int64 [bins, width of the longest], which is
    padded to no more than `max_length`. The tail of a bin is padding, a block of its own without labels and
    of no later positions than examples have; so is the whole of an empty bin. segment_ends: int32, of
    `ends_of`. What the host knows stays there: ordinals, the bins; example_lengths of each bin; content, for
    `batch_digest`. Where examples share a beginning, a bin has it once and example_lengths are of parts;
    part_after: of `attention.attention`; label_times: int64, how many examples have the label, where any has
    several.
    """

    def __init__(self, examples: Examples, pad_token_id: int, max_length: int) -> None:
        self.examples = examples
        self.pad_token_id = pad_token_id
        self.max_length = max_length

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        bins: list[Bin] = [list(map(int, row["bin"])) for row in rows]
        parts = [self.examples.parts(ordinals) for ordinals in bins]
        lengths = [[part.end - part.start for part in row] for row in parts]
        after = [[part.after for part in row] for row in parts]
        _, width = shape_of(bins, self.examples, self.max_length)
        longest = max((part.end for row in parts for part in row), default=width)
        ids = np.full((len(bins), width), self.pad_token_id, np.int64)
        labels = np.full((len(bins), width), -100, np.int64)
        positions = np.zeros((len(bins), width), np.int64)
        times = np.zeros((len(bins), width), np.int64)
        for row, held in enumerate(parts):
            self._fill(held, ids[row], labels[row], times[row])
            at = 0
            for part in held:
                end = at + part.end - part.start
                positions[row, at:end] = np.arange(part.start, part.end)
                at = end
            positions[row, at:] = np.arange(width - at) % longest
        shape = repr((len(bins), width)).encode()
        shares: Batch = {}
        if any(place >= 0 for row in after for place in row):
            shares[AFTER] = after
            shape += repr((lengths, after)).encode()
        if (times > 1).any():
            shares[TIMES] = torch.from_numpy(times)
            shape += times.astype("<i8").tobytes()
        return {
            **shares,
            "input_ids": torch.from_numpy(ids),
            "labels": torch.from_numpy(labels),
            "position_ids": torch.from_numpy(positions),
            ENDS: torch.tensor(ends_of(lengths, width), dtype=torch.int32),
            LENGTHS: lengths,
            "ordinals": bins,
            "content": shape + b"".join(values.astype("<i8").tobytes() for values in (ids, labels)),
        }

    def _fill(self, parts: list[Part], ids: Row, labels: Row, times: Row) -> None:
        """Lay the parts of one row end to end: tokens, labels, and how many examples have each label. What
        the first token of those that go on is taught belongs to the first of them.
        """
        at, begun, first = 0, list[int](), dict[int, int]()
        for part in parts:
            example, targets = self.examples.read(part.ordinal)
            end = at + part.end - part.start
            ids[at:end] = example[part.start : part.end]
            begun.append(at)
            if part.after >= 0:
                begins, shared = begun[part.after], part.start
                place = first.setdefault(part.after, at)
                _teach(labels[at + 1 : end], times[at + 1 : end], targets[shared + 1 :])
                _teach(labels[begins:], times[begins:], targets[:shared])
                _teach(labels[place:], times[place:], targets[shared : shared + 1])
            elif part.end == len(example):
                _teach(labels[at:end], times[at:end], targets)
            at = end


def _teach(labels: Row, times: Row, targets: Row) -> None:
    """Put labels in the first places where the targets have such, and count them."""
    at = np.flatnonzero(targets != -100)
    labels[at] = targets[at]
    times[at] += 1


def side_by_side(bins: list[Bin], rows: int) -> list[list[Bin]]:
    """Return micro-batches of so many bins, in their order; the last may have fewer."""
    return [bins[first : first + rows] for first in range(0, len(bins), rows)]


def shape_of(bins: list[Bin], examples: Examples, max_length: int) -> tuple[int, int]:
    """Return (rows, width) of these bins as one micro-batch."""
    if examples.beginnings is None:
        longest = max(int(examples.lengths[ordinals].sum()) for ordinals in bins)
    else:
        longest = max(computed(examples.parts(ordinals)) for ordinals in bins)
    return len(bins), width_of(longest, max_length)


def batch_digest(contents: list[bytes]) -> str:
    """Return the sha256 over shape, input_ids and labels of the micro-batches of one optimizer step."""
    return hashlib.sha256(b"".join(contents)).hexdigest()


def joined_digest(of_ranks: Sequence[str]) -> str:
    """Return the digest of one optimizer step out of those of its ranks, in their order."""
    return of_ranks[0] if len(of_ranks) == 1 else hashlib.sha256("".join(of_ranks).encode()).hexdigest()


def step_digests(
    collate: Collator, bins: Sequence[Bin], settings: TrainingSettings, ranks: int = 1
) -> Iterator[str]:
    """Yield what the ledger of a training over these bins says of each step's batch, without training."""
    rows = settings.per_device_train_batch_size
    for of_step in bins_of_steps(bins, settings, ranks):
        micro_batches = side_by_side(of_step, rows)
        contents = [collate([{"bin": ordinals} for ordinals in each])["content"] for each in micro_batches]
        yield joined_digest([batch_digest(contents[rank::ranks]) for rank in range(ranks)])
