"""A mixture of which the last step takes far more memory than any before it."""

from __future__ import annotations

from typing import Any

from ft_dagster.training.batches.packing import epoch_order
from tests.training.runs import Runs, made_rows, write_mixture, write_shard

LONGEST = 3_000  # tokens of the last row; none of the others has more than 24
WIDE: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 1.0,
    "max_length": LONGEST,
    "packing": False,
    "evaluations": 2,
}
STEPS = 100


def widening_mixture(runs: Runs) -> str:
    """A mixture whose last micro-batch alone is wide, by its last row."""
    count = WIDE["per_device_train_batch_size"] * STEPS
    last = int(epoch_order([count], 0, 0)[-1])
    folder = write_mixture(runs.folder / "widening", count, shards=1)
    rows = made_rows(count, 1)
    rows[last] = ([10 + n % 400 for n in range(LONGEST)], [1, LONGEST])
    write_shard(folder / "train/shard-00000.parquet", "train", 0, rows)
    return str(folder)
