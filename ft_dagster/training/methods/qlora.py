"""Trains QLoRA: LoRA over a base in 4-bit NormalFloat, whose quantization constants are quantized too."""

from __future__ import annotations

from ft_dagster.methods.qlora import QloraSettings
from ft_dagster.training.methods.lora import Lora


class Qlora(Lora):
    """Trains LoRA beside a base that is held in 4-bit NF4."""

    def __init__(self, settings: QloraSettings) -> None:
        super().__init__(settings)
        self.activations = settings.activations
