"""Decides what a method trains with unless the declaration says otherwise, each value with its reason. What
differs between methods, `ft_dagster/methods` holds.

Sources: for rates of `full` Alpaca, of LoRA QLoRA's own trainings (arXiv 2305.14314) and LoRA Without Regret;
PEFT's guide for prompt tuning; for prefix tuning and for rates of small models what learned on a 135M model
(benchmarks/notes/decisions.md); for raw text read again arXiv 2305.16264.
"""

from __future__ import annotations

import math

from ft_dagster.methods import method_of
from ft_dagster.methods.method import Rate
from ft_dagster.objectives import objective_of
from ft_dagster.planning.reasons import Default

USUAL_WIDTH = 4096  # the hidden size of models of 7B, which the usual rates are for
LARGE_WIDTH = 6656  # of models of 33B
SMALL_WIDTH = 576  # where rates were measured beside the usual ones (benchmarks/decisions.py)
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


def learning_rate(name: str, width: int, objective: str) -> Rate:
    """Decide the usual learning rate of a method for a base of that hidden size, to one digit.

    Narrower than 4,096 it rises evenly in logarithms up to `small_times`, of one narrow task `narrow_times`,
    at 576, where that was measured.
    """
    rates = method_of(name).rates
    if rates.large is not None and width >= LARGE_WIDTH:
        return rates.large
    most = rates.narrow_times if objective_of(objective).narrow else rates.small_times
    usual, times = rates.usual, most ** _smallness(width)
    value = float(f"{times * usual.value:.0e}")
    if value == usual.value:
        return usual
    why = f"{usual.reason}; {value / usual.value:.2g} times {usual.value:g} at a hidden size of {width:,}"
    high = float(f"{times * usual.high:.1e}")
    return Rate(value, usual.low, high, f"{why}: small models learned more at higher rates")


def largest_batch(name: str, parameters: int, device_kind: str, max_length: int) -> Default:
    """Return the rows of a step at most: more on GPUs for large bases that are trained whole."""
    if device_kind != "cuda" or parameters < LARGE:
        return Default(LARGEST_BATCH_ROWS, "")
    if method_of(name).freezes:
        return Default(LARGEST_BATCH_ROWS, ": large batches cost an adapter more, at any rank")
    rows = max(LARGEST_BATCH_ROWS, FULL_BATCH_TOKENS // max_length)
    return Default(rows, f", {FULL_BATCH_TOKENS:,} tokens, at which the usual rate was published")


def rate_at(rate: float, tokens: int) -> str:
    """Say what is to be known of the usual rate of `full` at so many tokens a step."""
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
        return Default(*method_of(name).epochs)
    passes = 0 if rows is None else min(MOST_PASSES, math.ceil(WANTED_STEPS / max(rows, 1)))
    if known.teaches != "facts" or passes <= known.epochs.value:
        return Default(*known.epochs)
    why = f"a pass has {rows:,} rows: read up to {MOST_PASSES} times, text teaches about as new text does"
    return Default(float(passes), why)


def lora_rank(name: str, examples: int, objective: str, most: int, narrowest: str = "") -> Default:
    """Decide the LoRA rank: the objective's own, else by the number of training examples; never above `most`,
    which the layer `narrowest` allows.

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
        more = method_of(name).on_low_rank if wanted.value < 64 else ""
        return Default(wanted.value, f"{wanted.reason}; {more}" if more else wanted.reason)
    layer = f", {narrowest}," if narrowest else ""
    return Default(most, f"{wanted.value} by the data, but the smallest layer{layer} allows {most}")


def _smallness(width: int) -> float:
    """Return 0 at the usual width and above, 1 at the small one and below, evenly in logarithms between."""
    between = math.log(USUAL_WIDTH / width) / math.log(USUAL_WIDTH / SMALL_WIDTH)
    return min(max(between, 0.0), 1.0)


def gradient_checkpointing(name: str, parameters: int) -> Default:
    known = method_of(name)
    if not known.recomputes:
        return Default(False, known.no_recomputing)
    if parameters >= LARGE:
        return Default(True, "3B parameters or more: recomputing costs 20-40% and frees most activations")
    return Default(False, "a small model: recomputing would only cost time")
