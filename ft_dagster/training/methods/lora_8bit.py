"""Trains LoRA over a base in 8 bits (LLM.int8)."""

from __future__ import annotations

from ft_dagster.training.methods.lora import Lora


class Lora8bit(Lora):
    """Trains as LoRA does; the base is quantized by what the method says of itself."""
