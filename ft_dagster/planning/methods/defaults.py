"""What a method trains with unless the declaration says otherwise, each value with its reason.

Sources: the field's usual values for full fine-tuning and LoRA; PEFT's guide for
prompt tuning; for prefix tuning what learned on a 135M model (benchmarks/README.md).
"""

from __future__ import annotations

from typing import NamedTuple

from ft_dagster.objectives import objective_of
from ft_dagster.planning.reasons import Default


class Rate(NamedTuple):
    """A learning rate, and the span in which it is usually chosen."""

    value: float
    low: float
    high: float
    reason: str


_LORA_RATE = Rate(2e-4, 1e-4, 3e-4, "1e-4 to 3e-4 for LoRA: ten times that of full fine-tuning")
LEARNING_RATES = {
    "full": Rate(2e-5, 1e-5, 5e-5, "1e-5 to 5e-5 for all weights: more makes a model forget"),
    "lora": _LORA_RATE,
    "qlora": _LORA_RATE,
    "lora_8bit": _LORA_RATE,
    "prompt_tuning": Rate(
        3e-2, 1e-3, 3e-1, "3e-2 in PEFT's guide to soft prompts: few values, each far from the loss"
    ),
    "prefix_tuning": Rate(
        1e-2, 1e-3, 5e-2, "1e-2 learned well on a 135M model; few values, each far from the loss"
    ),
}
EPOCHS = {
    "full": Default(2.0, "1-2 for full fine-tuning: it fits the data soonest"),
    "lora": Default(3.0, "usual for LoRA below 1M examples"),
    "qlora": Default(3.0, "usual for LoRA below 1M examples"),
    "lora_8bit": Default(3.0, "usual for LoRA below 1M examples"),
    "prompt_tuning": Default(10.0, "a prompt learns slowly: PEFT's guide takes 50 on 50 rows"),
    "prefix_tuning": Default(5.0, "a prefix learns more slowly than LoRA"),
}
DROPOUT = Default(0.05, "the usual guard against overfitting")
TARGET_MODULES = Default("all-linear", "all linear layers at a modest rank beat fewer at a higher one")
RSLORA = Default(False, "updates scale by alpha/r, not by alpha/sqrt(r)")
DORA = Default(False, "DoRA gains little for its time and memory")
VIRTUAL_TOKENS = Default(20, "20 in PEFT's guide; 8 to 100 in the literature")
MICRO_BATCH = {  # by packing
    True: Default(1, "a row holds many packed examples"),
    False: Default(4, "unpacked examples"),
}
MAX_LENGTH = Default(1024, "covers most instruction data; longer rows are truncated and counted")
WANTED_STEPS = 100
LARGEST_BATCH_ROWS = 16
LARGE = 3_000_000_000  # parameters

STANDING = {  # values that every declaration has
    "lr_scheduler_type": "decays to nothing, so that the last steps settle",
    "warmup_ratio": "3% of the steps: Adam's moments settle before the full rate",
    "weight_decay": "none is usual in fine-tuning",
    "max_grad_norm": "clips the rare large gradient",
    "keep_best": "of the checkpoints, by validation loss; the best becomes the model",
    "keep_last": "newest checkpoints, to resume from",
    "seed": "of the order of the examples, of what is drawn at random, of dropout",
}


def epochs(name: str, objective: str) -> Default:
    """Passes over the mixture: the objective's own, else the method's."""
    usual = objective_of(objective).epochs
    return EPOCHS[name] if usual is None else Default(*usual)


def lora_rank(name: str, examples: int, objective: str, most: int) -> Default:
    """LoRA rank: the objective's own, else by the number of training examples; never above `most`.

    Format or persona alone would do with 4-8, but no declaration says that this is all that is taught.
    """
    usual = objective_of(objective).lora_rank
    if usual is not None:
        wanted = Default(*usual)
    elif examples < 10_000:
        wanted = Default(
            16, f"{examples:,} examples: 16 covers instructions; 4-8 would do for format or persona alone"
        )
    elif examples <= 500_000:
        wanted = Default(32, f"{examples:,} examples: 16-32 for instructions")
    else:
        wanted = Default(64, f"{examples:,} examples: 64-128 for complex domains")
    if wanted.value <= most:
        cheap = "; on a quantized base 64 would cost little" if name == "qlora" and wanted.value < 64 else ""
        return Default(wanted.value, wanted.reason + cheap)
    return Default(most, f"{wanted.value} by the data, but the smallest layer allows {most}")


def alpha(rank: int) -> Default:
    return Default(2.0 * rank, "alpha = 2r")


def gradient_checkpointing(name: str, parameters: int) -> Default:
    if name == "prefix_tuning":
        return Default(False, "a prefix reaches the layers through the cache, which recomputing drops")
    if parameters >= LARGE:
        return Default(True, "3B parameters or more: recomputing costs 20-40% and frees most activations")
    return Default(False, "a small model: recomputing would only cost time")
