"""Declares LoRA above a base in 8 bits (LLM.int8)."""

from __future__ import annotations

from ft_dagster.methods.lora import DEFAULTS, EPOCHS, RATES, LoraSettings, utilization_above
from ft_dagster.methods.method import Figure, Method, Quantized

QUANTIZED = Quantized("int8", 1.0, rest_in_fp32=True, cpu_step_seconds=2.9, plain="lora")

METHOD = Method(
    name="lora_8bit",
    order=3,
    trains="layers",
    settings=LoraSettings,
    defaults=DEFAULTS,
    usual=Figure(
        2, "between the two; int8 steps were measured slower than 4-bit ones, and it cannot be sharded"
    ),
    rates=RATES,
    epochs=EPOCHS,
    utilization=utilization_above(QUANTIZED),
    exports=("adapter", "merged"),
    is_lora=True,
    quantized=QUANTIZED,
    smaller=("qlora",),
)
