"""Declares prefix tuning (Li and Liang 2021): learned keys and values before the text, in every layer."""

from __future__ import annotations

from ft_dagster.methods.base_facts import BaseFacts
from ft_dagster.methods.method import Figure, Method, Rate, Rates
from ft_dagster.methods.prompt_tuning import DEFAULTS, UTILIZATION, PromptSettings


class PrefixSettings(PromptSettings):
    """Holds the settings of prefix tuning: learned keys and values of so many positions."""

    def trainable_parameters(self, base: BaseFacts, new_tokens: int = 0) -> int:
        return self.num_virtual_tokens * base.layers * 2 * base.key_value_size


METHOD = Method(
    name="prefix_tuning",
    order=5,
    trains="prompt",
    settings=PrefixSettings,
    defaults=DEFAULTS,
    usual=Figure(4, "of 2021: close to full at 10B and above, worse below"),
    rates=Rates(  # tried at 135M alone
        Rate(1e-2, 1e-3, 5e-2, "1e-2 learned well on a 135M model; few values, each far from the loss")
    ),
    epochs=Figure(5.0, "a prefix learns more slowly than LoRA"),
    utilization=UTILIZATION,
    exports=("adapter",),
    packs=False,
    no_recomputing="a prefix reaches the layers through the cache, which recomputing drops",
    smaller=("qlora",),
)
