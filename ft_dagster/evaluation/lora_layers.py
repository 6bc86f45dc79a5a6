"""PEFT's plain LoRA layer for a model that is only asked: the same sums, to the bit, and nothing around.

An answer is written a token at a time, and a layer's work is then so small that PEFT's own Python around it
counts. Layers that do more than plain LoRA stay PEFT's: DoRA, quantized ones. Imported only where torch is.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.nn.functional import linear


class PlainLinear(Linear):
    """For evaluation mode: no dropout."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        adapter = self.active_adapters[0] if len(self.active_adapters) == 1 else None
        off = self.disable_adapters or self.merged or self.training or adapter not in self.lora_A
        if args or kwargs or off:
            return super().forward(x, *args, **kwargs)
        base, down, up = self.base_layer, self.lora_A[adapter], self.lora_B[adapter]
        if x.dtype != down.weight.dtype:
            return super().forward(x)
        update = linear(linear(x, down.weight, down.bias), up.weight, up.bias)
        return linear(x, base.weight, base.bias).add_(update.mul_(self.scaling[adapter]))


def plain_lora_layers(model: nn.Module) -> None:
    """Make those layers of a PEFT model in evaluation mode such ones."""
    for layer in model.modules():
        if type(layer) is Linear and type(layer.base_layer) is nn.Linear and not layer.lora_variant:
            layer.__class__ = PlainLinear
