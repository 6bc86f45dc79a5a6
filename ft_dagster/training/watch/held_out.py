"""Measures the loss on held-out examples: on a sample, the same at every look, block by block.

A sample is a prefix of the split in the order of the examples' content, so that it changes little when rows
are added, and two trainings on the same rows share a prefix. Each block is laid out and summed alone: what
it comes to does not depend on how many follow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ft_dagster.provenance.digest import sha256_json
from ft_dagster.training import ranks
from ft_dagster.training.batches.mixture import Examples
from ft_dagster.training.batches.packing import Bin, pack
from ft_dagster.training.watch.budget import prefixes
from ft_dagster.training.watch.first_look import FirstLooks

VALIDATION_ON = (
    "validation_on"  # name of the line: number of examples -> loss on the first so many of the sample
)
BY_EXAMPLE = "validation_by_example"  # name of the line: [loss, trained tokens] of each example of the sample


LOGIT_BYTES = 4e9  # of whole logits in fp32, at a measurement


class HeldOutBlock(NamedTuple):
    """Holds examples of a sample that are measured together. `upto`: how many the sample has with them;
    `tokens`, `trained_tokens`: theirs; `digest`: of their content and layout.
    """

    upto: int
    bins: list[Bin]
    tokens: int
    trained_tokens: int
    digest: str


@dataclass(frozen=True)
class HeldOutSample:
    """Holds the measured examples of a split."""

    examples: Examples
    blocks: tuple[HeldOutBlock, ...]

    @property
    def count(self) -> int:
        return self.blocks[-1].upto

    @property
    def tokens(self) -> int:
        return sum(block.tokens for block in self.blocks)

    def __str__(self) -> str:
        return f"{self.count} of {len(self.examples)}"


def blocks_of(examples: Examples, capacity: int | None) -> Iterator[HeldOutBlock]:
    """Yield the blocks of the whole split, one after another; `capacity` in tokens of a bin, None: an example
    each.
    """
    contents = [_content(examples, ordinal) for ordinal in range(len(examples))]
    order = sorted(range(len(examples)), key=lambda ordinal: (contents[ordinal], ordinal))
    before = 0
    for upto in prefixes(len(examples)):
        members = np.array(order[before:upto], np.int64)
        longest_first = members[np.argsort(-examples.lengths[members], kind="stable")]
        if capacity is None:
            bins = [[ordinal] for ordinal in longest_first.tolist()]
        else:
            room = max(capacity, int(examples.lengths[members].max()))
            bins = pack(examples.lengths, longest_first, room)
        yield HeldOutBlock(
            upto,
            bins,
            int(examples.lengths[members].sum()),
            int(examples.trained[members].sum()),
            sha256_json([[contents[ordinal] for ordinal in ordinals] for ordinals in bins]),
        )
        before = upto


def losses_of(
    sample: HeldOutSample,
    measured: Callable[[Examples, list[Bin]], float],
    shapes: Callable[[list[Bin]], list[tuple[int, int]]],
    kept: FirstLooks | None,
    spend: Callable[[HeldOutBlock], None],
) -> dict[int, float]:
    """Return number of examples -> mean loss of the first so many, nats a trained token; the last is of the
    sample.

    `measured`: the summed loss of bins, in step over all ranks; `shapes`: (rows, width) of the micro-batches
    in which it is. `kept`: of the base, where this is its look. `spend` is told each block that was measured.
    """
    found, total, tokens = {}, 0.0, 0
    for block in sample.blocks:
        what = {"loss": block.digest, "shapes": sha256_json(shapes(block.bins))}
        loss = _read(kept, what)
        if loss is None:
            loss = measured(sample.examples, block.bins)
            spend(block)
            if kept is not None and ranks.is_first():
                kept.write(what, loss)
        total, tokens = total + loss, tokens + block.trained_tokens
        found[block.upto] = total / max(1, tokens)
    return found


def _read(kept: FirstLooks | None, what: Mapping[str, Any]) -> Any:
    return None if kept is None else ranks.agree(lambda: kept.read(what))


def _content(examples: Examples, ordinal: int) -> str:
    """Return the sha256 of an example's tokens and labels."""
    ids, labels = examples.read(ordinal)
    digest = hashlib.sha256(ids.astype("<i8").tobytes())
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def rows_at_once(micro_batch: int, length: int, vocabulary: int) -> int:
    """Return the rows of `length` tokens that are measured together: as many as a step takes, but no more
    than whole logits in fp32 leave room for. A step makes those of a few positions at a time, a measurement
    all.
    """
    return max(1, min(micro_batch, int(LOGIT_BYTES // (4 * vocabulary * length))))
