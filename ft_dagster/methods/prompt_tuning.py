"""Declares prompt tuning (Lester et al. 2021): learned embeddings before the text."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ft_dagster.methods.base_facts import BaseFacts
from ft_dagster.methods.lora import UTILIZATION as OF_LORA
from ft_dagster.methods.method import Figure, Method, Rate, Rates, SettingDefault
from ft_dagster.methods.settings import MethodSettings

DEFAULTS = {"num_virtual_tokens": SettingDefault(20, "20 in PEFT's guide; 8 to 100 in the literature")}
UTILIZATION = Figure(OF_LORA.value, "as lora, and its rows are not packed: short ones are padded")


class PromptSettings(MethodSettings):
    """Holds the settings of methods that train learned positions before the text."""

    capacity: ClassVar[str | None] = "num_virtual_tokens"

    num_virtual_tokens: Annotated[
        int, Field(ge=1, le=512, description="Length of the learned prompt or prefix")
    ] = 20

    def trainable_parameters(self, base: BaseFacts, new_tokens: int = 0) -> int:
        return self.num_virtual_tokens * base.hidden_size


METHOD = Method(
    name="prompt_tuning",
    order=4,
    trains="prompt",
    settings=PromptSettings,
    defaults=DEFAULTS,
    usual=Figure(5, "of 2021: close to full at 10B and above, worse below; learns slowly"),
    rates=Rates(
        Rate(3e-2, 1e-3, 3e-1, "3e-2 in PEFT's guide to soft prompts: few values, each far from the loss")
    ),
    epochs=Figure(10.0, "a prompt learns slowly: PEFT's guide takes 50 on 50 rows"),
    utilization=UTILIZATION,
    exports=("adapter",),
    packs=False,
    smaller=("qlora",),
)
