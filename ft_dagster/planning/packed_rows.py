"""Counts how many steps a training takes: its examples packed as the trainer will pack them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.spec.training import TrainingSettings
from ft_dagster.training.batches.mixture import shard_files
from ft_dagster.training.batches.packing import schedule, total_steps

MOST_TOKENS = 20_000_000  # of a mixture that is read for it
MOST_EXAMPLES = 1_000_000  # packed for it, over all epochs: some seconds


@dataclass(frozen=True)
class ExampleLengths:
    """Holds the tokens of each training example of a mixture, in order; `shards`: the number of examples of
    each.
    """

    lengths: NDArray[np.int64]
    shards: tuple[int, ...]

    def steps(self, training: TrainingSettings, ranks: int) -> int | None:
        """Count the optimizer steps; None where it would take long to count them."""
        if training.max_steps is not None:
            return training.max_steps
        if len(self.lengths) * training.num_train_epochs > MOST_EXAMPLES:
            return None
        capacity = training.max_length if training.packing else None
        bins = schedule(self.lengths, self.shards, training, capacity, training.seed, ranks)
        return total_steps(len(bins), training, ranks)


def is_counted(figures: MixtureFigures) -> bool:
    """Say whether a mixture is small enough to be read for it."""
    return figures.train.tokens <= MOST_TOKENS


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
