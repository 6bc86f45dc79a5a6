"""Declares full fine-tuning: every weight of the base is trained."""

from __future__ import annotations

from ft_dagster.methods.base_facts import BaseFacts
from ft_dagster.methods.method import Figure, Method, PublishedCost, Rate, Rates
from ft_dagster.methods.settings import MethodSettings


class FullSettings(MethodSettings):
    """Declares the settings of full fine-tuning, which has none."""

    name: str = "full"

    def trainable_parameters(self, base: BaseFacts, new_tokens: int = 0) -> int:
        return base.parameters


METHOD = Method(
    name="full",
    order=0,
    trains="weights",
    settings=FullSettings,
    usual=Figure(3, "moves every weight: large checkpoints, and what it can forget is everything"),
    rates=Rates(
        Rate(2e-5, 1e-5, 5e-5, "2e-5 at 7B, 128 rows a step (Alpaca): more makes a model forget"),
        small_times=3.0,  # at 135M so much more did better (benchmarks/decisions.py)
        narrow_times=5.0,
    ),
    epochs=Figure(2.0, "1-2 for full fine-tuning: it fits the data soonest"),
    utilization=Figure(
        0.35, "large models pre-train at 0.35 to 0.5 of the peak; a fine-tune's rows are smaller"
    ),
    exports=("merged",),
    zero_stages=(0, 2, 3),
    declared_zero_stages=(0, 2, 3),
    smaller=("lora", "lora_8bit", "qlora"),
    published=PublishedCost(
        {7: (150, 300), 13: (400, 700), 70: (2000, 4000)},
        "the rule of thumb has full cost ten times lora. Counted, a token costs full 6 FLOPs a parameter and "
        "lora 4: 1.5 times. Full is dearer because it needs more and larger GPUs, not more arithmetic",
    ),
)
