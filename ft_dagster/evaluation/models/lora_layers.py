"""Computes a plain LoRA layer of a model that is only asked: the sums that it was trained with, and nothing
around.

An answer is written a token at a time, and a layer's work is then so small that PEFT's own Python around it
counts, and so does each pass over the layer's output. Layers that do more than plain LoRA stay PEFT's: DoRA,
quantized ones. Imported only where torch is.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import nn


class PlainLinear(Linear):
    """Computes a plain LoRA layer in evaluation mode: no dropout."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        adapter = self.active_adapters[0] if len(self.active_adapters) == 1 else None
        off = self.disable_adapters or self.merged or self.training or adapter not in self.lora_A
        if args or kwargs or off:
            return super().forward(x, *args, **kwargs)
        base, down, up = self.base_layer, self.lora_A[adapter], self.lora_B[adapter]
        if x.dtype != down.weight.dtype or up.bias is not None:
            return super().forward(x)
        flat = x.reshape(-1, x.shape[-1])
        inner = (flat @ down.weight.T).mul_(self.scaling[adapter])
        out = add_update(base.forward(flat), inner, up.weight)
        return out.view(*x.shape[:-1], out.shape[-1])


def add_update(out: torch.Tensor, inner: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Add inner B' to out in its place: out [positions, out], inner = s x A' [positions, rank], B [out,
    rank].
    """
    return torch.addmm(out, inner, up.T, out=out)


def plain_lora_layers(model: nn.Module) -> None:
    """Make those layers of a PEFT model in evaluation mode such ones."""
    for layer in model.modules():
        if type(layer) is Linear and type(layer.base_layer) is nn.Linear and not layer.lora_variant:
            layer.__class__ = PlainLinear
