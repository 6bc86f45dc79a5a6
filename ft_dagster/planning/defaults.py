"""What a method trains with unless the declaration says otherwise, each value with its reason.

Figures: the method notes of the founding lesson (LR, schedule, rank by amount of data, alpha = 2r).
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Default(NamedTuple):
    value: Any
    reason: str


def lora_rank(examples: int) -> Default:
    """LoRA rank by the number of training examples."""
    if examples < 10_000:
        return Default(
            16, f"{examples:,} examples: 16 covers instructions; 4-8 would do for format or persona alone"
        )
    if examples <= 500_000:
        return Default(32, f"{examples:,} examples: 16-32 for instructions")
    return Default(64, f"{examples:,} examples: 64-128 for complex domains")


LORA = {
    "learning_rate": Default(2e-4, "1e-4 to 3e-4 for LoRA"),
    "num_train_epochs": Default(3.0, "instructions, below 1M examples"),
    "dropout": Default(0.05, "the usual guard against overfitting"),
    "target_modules": Default("all-linear", "all linear layers at a modest rank beat fewer at a higher one"),
}
MAX_LENGTH = Default(1024, "covers most instruction data; longer rows are truncated and counted")
WANTED_STEPS = 100
LARGEST_BATCH_ROWS = 16
