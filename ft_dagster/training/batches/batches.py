"""Turns bins into tensors: examples side by side, each with positions of its own and no attention mask.

`attention.py` attends to each by its length. Where it does not apply, transformers derives a block-diagonal
mask from where `position_ids` restart, with `attention_mask` absent and the cache off: an all-ones mask, or
the cache, would silently let examples see each other.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from ft_dagster.training.batches.attention import ENDS, LENGTHS, Batch, ends_of
from ft_dagster.training.batches.mixture import Examples
from ft_dagster.training.batches.packing import Bin, width_of


class Collator:
    """Turns rows {"bin": [ordinal, …]} into one micro-batch.

    input_ids, labels (-100: not trained on), position_ids: int64 [bins, width of the longest], which is
    padded to no more than `max_length`. The tail of a bin is padding, a block of its own without labels and
    of no later positions than examples have; so is the whole of an empty bin. segment_ends: int32, of
    `ends_of`. What the host knows stays there: ordinals, the bins; example_lengths of each bin; content, for
    `batch_digest`.
    """

    def __init__(self, examples: Examples, pad_token_id: int, max_length: int) -> None:
        self.examples = examples
        self.pad_token_id = pad_token_id
        self.max_length = max_length

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        bins: list[Bin] = [list(map(int, row["bin"])) for row in rows]
        lengths = [[int(self.examples.lengths[i]) for i in ordinals] for ordinals in bins]
        _, width = shape_of(bins, self.examples, self.max_length)
        longest = max((length for row in lengths for length in row), default=width)
        ids = np.full((len(bins), width), self.pad_token_id, np.int64)
        labels = np.full((len(bins), width), -100, np.int64)
        positions = np.zeros((len(bins), width), np.int64)
        for row, ordinals in enumerate(bins):
            at = 0
            for ordinal in ordinals:
                example, targets = self.examples.read(ordinal)
                end = at + len(example)
                ids[row, at:end], labels[row, at:end] = example, targets
                positions[row, at:end] = np.arange(len(example))
                at = end
            positions[row, at:] = np.arange(width - at) % longest
        shape = repr((len(bins), width)).encode()
        return {
            "input_ids": torch.from_numpy(ids),
            "labels": torch.from_numpy(labels),
            "position_ids": torch.from_numpy(positions),
            ENDS: torch.tensor(ends_of(lengths, width), dtype=torch.int32),
            LENGTHS: lengths,
            "ordinals": bins,
            "content": shape + b"".join(values.astype("<i8").tobytes() for values in (ids, labels)),
        }


def side_by_side(bins: list[Bin], rows: int) -> list[list[Bin]]:
    """Return micro-batches of so many bins, in their order; the last may have fewer."""
    return [bins[first : first + rows] for first in range(0, len(bins), rows)]


def shape_of(bins: list[Bin], examples: Examples, max_length: int) -> tuple[int, int]:
    """Return (rows, width) of these bins as one micro-batch."""
    longest = max(int(examples.lengths[ordinals].sum()) for ordinals in bins)
    return len(bins), width_of(longest, max_length)


def batch_digest(contents: list[bytes]) -> str:
    """Return the sha256 over shape, input_ids and labels of the micro-batches of one optimizer step."""
    return hashlib.sha256(b"".join(contents)).hexdigest()
