"""QLoRA: LoRA over a base in 4-bit NormalFloat, whose quantization constants are quantized too."""

from __future__ import annotations

from ft_dagster.training.methods.lora import Lora


class Qlora(Lora):
    name = "qlora"
    quantization = "nf4"
