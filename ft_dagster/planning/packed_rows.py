"""Counts how many steps a training takes: its examples packed as the trainer will pack them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.planning.facts import Facts
from ft_dagster.spec.training import TrainingSettings, TrainingSpec
from ft_dagster.training.batches.beginnings import Beginnings, computed, parts_of
from ft_dagster.training.batches.mixture import open_split, shard_files
from ft_dagster.training.batches.packing import Bin, epoch_bins, schedule, total_steps, width_of

MOST_TOKENS = 20_000_000  # of a mixture that is read for it
MOST_EXAMPLES = 1_000_000  # packed for it, over all epochs: some seconds


@dataclass(frozen=True)
class ExampleLengths:
    """Holds the tokens of each training example of a mixture, in order; `shards`: the number of examples of
    each; `beginnings`: what they have in common and compute once, None where that is not asked for.
    """

    lengths: NDArray[np.int64]
    shards: tuple[int, ...]
    beginnings: Beginnings | None = None

    def shared(self, seed: int, capacity: int) -> int:
        """Count the tokens of the first epoch that are not computed, since a beginning is once for several
        examples in a row of `capacity`; 0 where it would take long to count them.
        """
        if self.beginnings is None or len(self.lengths) > MOST_EXAMPLES:
            return 0
        bins = epoch_bins(self.lengths, self.shards, capacity, seed, 0, self.beginnings)
        return int(self.lengths.sum()) - sum(map(self._computed, bins))

    def _computed(self, ordinals: Bin) -> int:
        return computed(parts_of(ordinals, self.lengths, self.beginnings))

    def steps(self, training: TrainingSettings, ranks: int) -> int | None:
        """Count the optimizer steps; None where it would take long to count them."""
        if training.max_steps is not None:
            return training.max_steps
        bins = self._bins(training, ranks)
        return None if bins is None else total_steps(len(bins), training, ranks)

    def padding(self, training: TrainingSettings, ranks: int) -> float | None:
        """Return how many positions are computed for each token, those of padding among them; None where it
        would take long to count them.
        """
        bins = self._bins(training, ranks)
        if bins is None:
            return None
        tokens = [int(self.lengths[ordinals].sum()) for ordinals in bins]
        rows = training.per_device_train_batch_size
        together = (tokens[first : first + rows] for first in range(0, len(tokens), rows))
        positions = sum(len(each) * width_of(max(each), training.max_length) for each in together)
        return positions / max(1, sum(tokens))

    def _bins(self, training: TrainingSettings, ranks: int) -> list[Bin] | None:
        if training.max_steps is None and len(self.lengths) * training.num_train_epochs > MOST_EXAMPLES:
            return None
        capacity = training.max_length if training.packing else None
        shares = training.packing and training.share_beginnings != "off"
        beginnings = self.beginnings if shares else None
        return schedule(self.lengths, self.shards, training, capacity, training.seed, ranks, beginnings)


def is_counted(figures: MixtureFigures) -> bool:
    """Say whether a mixture is small enough to be read for it."""
    return figures.train.tokens <= MOST_TOKENS


def with_shared(facts: Facts, lengths: ExampleLengths | None, training: TrainingSpec) -> Facts:
    """Return the facts with the tokens that beginnings in common save, as declared; 0 where `lengths` are not
    known.
    """
    if training.share_beginnings == "off" or lengths is None:
        return facts
    return replace(facts, shared=lengths.shared(training.seed, training.max_length or facts.max_length))


def counted_lengths(mixture: Path, figures: MixtureFigures, training: TrainingSpec) -> ExampleLengths | None:
    """Read what a plan counts by; None where a mixture is too large to be read for it."""
    if not is_counted(figures):
        return None
    if training.share_beginnings == "off":
        return read_lengths(mixture)
    with tempfile.TemporaryDirectory() as scratch:
        found = open_split(mixture, "train", Path(scratch))
        if found is None:
            return read_lengths(mixture)
        found = found.sharing(training.max_length or figures.max_length)
    return ExampleLengths(found.lengths, found.shards, found.beginnings)


def read_lengths(mixture: Path) -> ExampleLengths:
    """Read the lengths of a mixture's payload."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    shards = [
        pc.list_value_length(pq.read_table(file, columns=["input_ids"])["input_ids"]).to_numpy()
        for file in shard_files(mixture, "train")
    ]
    whole = np.concatenate(shards) if shards else np.zeros(0)
    return ExampleLengths(whole.astype(np.int64), tuple(map(len, shards)))
