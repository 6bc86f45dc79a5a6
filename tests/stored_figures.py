"""The figures of a training as they are stored, for what reads them."""

from __future__ import annotations

from typing import Any


def stored_training(**changes: Any) -> dict[str, Any]:
    """The JSON of a training's figures, with changes; what it does not hold was not measured."""
    return {
        "steps": 40, "epochs": 2.0, "train_loss_first": 4.0, "train_loss_last": 2.0, "best_step": 30,
        "tokens": 40_000, "trained_tokens": 12_345, "packing_fill": 0.5, "training_seconds": 100.0,
        "seconds": 120.0, "peak_memory_bytes": 10**9, "parameters": 10**6, "trainable_parameters": 10**4,
        "flops_estimate": 10**14, "checkpoints_kept": 2, "checkpoint_weights_bytes": 80_000,
        "checkpoint_optimizer_bytes": 160_000, **changes,
    }  # fmt: skip
