"""What a method trains with unless the declaration says otherwise, each value with its reason.

Sources: for rates of `full` Alpaca, of LoRA QLoRA's own trainings (arXiv 2305.14314) and LoRA Without Regret;
PEFT's guide for prompt tuning; for prefix tuning and for rates of small models what learned on a 135M model
(benchmarks/notes/decisions.md); for raw text read again arXiv 2305.16264.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ft_dagster.objectives import objective_of
from ft_dagster.planning.reasons import Default


class Rate(NamedTuple):
    """A learning rate, and the span in which it is usually chosen."""

    value: float
    low: float
    high: float
    reason: str


_LORA_RATE = Rate(  # 1e-3 of 128 rows a step (LoRA Without Regret) is 3.5e-4 of 16 by Adam's square root
    2e-4, 1e-4, 3e-4, "2e-4 at 7B and 13B, 16 rows a step (QLoRA on OASST1)"
)
LEARNING_RATES = {  # of models of 7B; see `learning_rate`
    "full": Rate(2e-5, 1e-5, 5e-5, "2e-5 at 7B, 128 rows a step (Alpaca): more makes a model forget"),
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
USUAL_WIDTH = 4096  # the hidden size of models of 7B, which the usual rates are for
LARGE_WIDTH = 6656  # of models of 33B
_LARGE_LORA_RATE = Rate(1e-4, 5e-5, 3e-4, "1e-4 at 33B and 65B, 16 rows a step (QLoRA on OASST1)")
# At 135M so many times these rates did better (benchmarks/decisions.py); soft prompts were tried there alone.
SMALL_WIDTH, SMALL_TIMES = 576, {"full": 3.0, "lora": 2.0, "qlora": 2.0, "lora_8bit": 2.0}
NARROW_TIMES = {**SMALL_TIMES, "full": 5.0}  # of one narrow task: labels, JSON, SQL
EPOCHS = {
    "full": Default(2.0, "1-2 for full fine-tuning: it fits the data soonest"),
    "lora": Default(3.0, "usual for LoRA"),
    "qlora": Default(3.0, "usual for LoRA"),
    "lora_8bit": Default(3.0, "usual for LoRA"),
    "prompt_tuning": Default(10.0, "a prompt learns slowly: PEFT's guide takes 50 on 50 rows"),
    "prefix_tuning": Default(5.0, "a prefix learns more slowly than LoRA"),
}
DROPOUT = Default(0.0, "at 135M 0.05 moved no loss and slowed each step")
TARGET_MODULES = Default("all-linear", "all linear layers at a modest rank beat fewer at a higher one")
ALPHA = Default(32.0, "32 at any rank: one rate then learned and forgot alike at ranks 4 to 64")
RSLORA = Default(False, "updates scale by alpha/r, not by alpha/sqrt(r)")
DORA = Default(False, "DoRA gains little for its time and memory")
VIRTUAL_TOKENS = Default(20, "20 in PEFT's guide; 8 to 100 in the literature")
MICRO_BATCH = {  # by packing
    True: Default(1, "a row holds many packed examples"),
    False: Default(4, "unpacked examples"),
}
MAX_LENGTH = Default(1024, "covers most instruction data; longer rows are truncated and counted")
WANTED_STEPS = 100
MOST_PASSES = 4  # over raw text: so often it teaches about as much as new text does
LARGEST_BATCH_ROWS = 16
LARGE = 3_000_000_000  # parameters
# Of a step of `full` on GPUs from LARGE on: 128 examples of 512 tokens, as Alpaca was trained, at 2e-5
# (Vicuna on as many of up to 2,048).
FULL_BATCH_TOKENS = 65_536

STANDING = {  # values that every declaration has
    "lr_scheduler_type": "decays to nothing, so that the last steps settle",
    "warmup_ratio": "3% of the steps: Adam's moments settle before the full rate",
    "weight_decay": "none is usual in fine-tuning",
    "max_grad_norm": "clips the rare large gradient",
    "keep_best": "of the checkpoints, by validation loss; the best becomes the model",
    "keep_last": "newest checkpoints, to resume from",
    "seed": "of the order of the examples, of what is drawn at random, of dropout",
}


def learning_rate(name: str, width: int, objective: str) -> Rate:
    """The usual rate of a method for a base of that hidden size, to one digit.

    Narrower than 4,096 the rates for weights rise evenly in logarithms up to `SMALL_TIMES`, of one narrow
    task `NARROW_TIMES`, at 576, where that was measured. From 6,656 on adapters of LoRA take half.
    """
    if LEARNING_RATES[name] is _LORA_RATE and width >= LARGE_WIDTH:
        return _LARGE_LORA_RATE
    most = NARROW_TIMES if objective_of(objective).narrow else SMALL_TIMES
    usual, times = LEARNING_RATES[name], most.get(name, 1.0) ** _smallness(width)
    value = float(f"{times * usual.value:.0e}")
    if value == usual.value:
        return usual
    why = f"{usual.reason}; {value / usual.value:.2g} times {usual.value:g} at a hidden size of {width:,}"
    high = float(f"{times * usual.high:.1e}")
    return Rate(value, usual.low, high, f"{why}: small models learned more at higher rates")


def largest_batch(name: str, parameters: int, device_kind: str, max_length: int) -> Default:
    """Rows of a step at most: more on GPUs for large bases that are trained whole."""
    if device_kind != "cuda" or parameters < LARGE:
        return Default(LARGEST_BATCH_ROWS, "")
    if name != "full":
        return Default(LARGEST_BATCH_ROWS, ": large batches cost an adapter more, at any rank")
    rows = max(LARGEST_BATCH_ROWS, FULL_BATCH_TOKENS // max_length)
    return Default(rows, f", {FULL_BATCH_TOKENS:,} tokens, at which the usual rate was published")


def rate_at(rate: float, tokens: int) -> str:
    """What is to be known of the usual rate of `full` at so many tokens a step."""
    said = f"published for {FULL_BATCH_TOKENS:,} tokens a step"
    times = tokens / FULL_BATCH_TOKENS
    if 0.5 <= times <= 2:
        return said
    other = f"{rate * math.sqrt(times):.1e}"
    return f"{said}; at {tokens:,} Adam's square-root rule (arXiv 2205.10287) would give {other}"


def epochs(name: str, objective: str, rows: int | None = None) -> Default:
    """Passes over the mixture: the objective's own, else the method's. `rows`: of one pass, packed.

    Facts of which a pass has fewer than 100 rows are read again, up to four times.
    """
    known = objective_of(objective)
    if known.epochs is None:
        return EPOCHS[name]
    passes = 0 if rows is None else min(MOST_PASSES, math.ceil(WANTED_STEPS / max(rows, 1)))
    if known.teaches != "facts" or passes <= known.epochs.value:
        return Default(*known.epochs)
    why = f"a pass has {rows:,} rows: read up to {MOST_PASSES} times, text teaches about as new text does"
    return Default(float(passes), why)


def lora_rank(name: str, examples: int, objective: str, most: int, narrowest: str = "") -> Default:
    """LoRA rank: the objective's own, else by the number of training examples; never above `most`, which the
    layer `narrowest` allows.

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
    layer = f", {narrowest}," if narrowest else ""
    return Default(most, f"{wanted.value} by the data, but the smallest layer{layer} allows {most}")


def _smallness(width: int) -> float:
    """0 at the usual width and above, 1 at the small one and below, evenly in logarithms between."""
    between = math.log(USUAL_WIDTH / width) / math.log(USUAL_WIDTH / SMALL_WIDTH)
    return min(max(between, 0.0), 1.0)


def gradient_checkpointing(name: str, parameters: int) -> Default:
    if name == "prefix_tuning":
        return Default(False, "a prefix reaches the layers through the cache, which recomputing drops")
    if parameters >= LARGE:
        return Default(True, "3B parameters or more: recomputing costs 20-40% and frees most activations")
    return Default(False, "a small model: recomputing would only cost time")
