"""Declares QLoRA: LoRA above a base in 4-bit NormalFloat, whose quantization constants are quantized too."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ft_dagster.methods.lora import DEFAULTS, EPOCHS, RATES, LoraSettings, utilization_above
from ft_dagster.methods.method import Figure, Method, PublishedCost, Quantized

QUANTIZED = Quantized(
    "nf4",
    0.5 + 1 / 64 + 4 / (64 * 256),  # 4 bits, a scale of 8 bits for 64 weights, one of 32 for 256 scales
    rest_in_fp32=False,
    cpu_step_seconds=2.4,
    plain="lora",
)


class QloraSettings(LoraSettings):
    """Holds LoRA's settings, and the type of what is computed above a 4-bit base."""

    unsaid = (*LoraSettings.unsaid, "activations")

    name: str = "qlora"
    activations: Literal["bf16"] | None = Field(
        None,
        description="The type of what is not quantized of the base, and so of all that is kept for the "
        "backward pass; null: fp32, as plans had it before there was a choice",
    )


METHOD = Method(
    name="qlora",
    order=2,
    trains="layers",
    settings=QloraSettings,
    defaults=DEFAULTS,
    usual=Figure(
        1, "a base in 4 bits has lost a little before the first step (0.25 nats at 135M; larger ones less)"
    ),
    rates=RATES,
    epochs=EPOCHS,
    utilization=utilization_above(QUANTIZED),
    exports=("adapter", "merged"),
    is_lora=True,
    declared_zero_stages=(0, 2),  # each process holds the base whole: ZeRO-2 divides what is trained
    quantized=QUANTIZED,
    published=PublishedCost(
        {7: (8, 15), 13: (15, 25), 70: (80, 150)},
        "qlora computes what lora computes and unpacks 4-bit weights besides: slower a step of the same "
        "layout, so not half of lora's hours; it is cheaper where it needs fewer or smaller GPUs",
    ),
    on_low_rank="on a quantized base 64 would cost little",
)
