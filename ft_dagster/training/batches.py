"""From bins to tensors: examples side by side, each with positions of its own and no attention mask.

With `attention_mask` absent and the cache off, transformers derives the block-diagonal mask from where
`position_ids` restart. An all-ones mask, or the cache, would silently let examples see each other.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from ft_dagster.training.mixture import Examples
from ft_dagster.training.packing import Bin


class Collator:
    """Turns rows {"bin": [ordinal, …]} into one micro-batch.

    input_ids, labels (-100: not trained on), position_ids: int64 [bins, longest bin]; ordinals: the bins.
    The tail of a shorter bin is padding, a block of its own without labels; so is the whole of an empty bin.
    """

    def __init__(self, examples: Examples, pad_token_id: int) -> None:
        self.examples = examples
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        bins: list[Bin] = [list(map(int, row["bin"])) for row in rows]
        width = max(2, *(sum(int(self.examples.lengths[i]) for i in ordinals) for ordinals in bins))
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
            positions[row, at:] = np.arange(width - at)
        return {
            "input_ids": torch.from_numpy(ids),
            "labels": torch.from_numpy(labels),
            "position_ids": torch.from_numpy(positions),
            "ordinals": bins,
        }


def batch_digest(micro_batches: list[dict[str, Any]]) -> str:
    """sha256 over shape, input_ids and labels of the micro-batches of one optimizer step."""
    digest = hashlib.sha256()
    for batch in micro_batches:
        digest.update(repr(tuple(batch["input_ids"].shape)).encode())
        for name in ("input_ids", "labels"):
            digest.update(batch[name].cpu().numpy().astype("<i8").tobytes())
    return digest.hexdigest()
