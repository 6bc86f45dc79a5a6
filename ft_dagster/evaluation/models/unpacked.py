"""Unpacks the weights of a 4-bit base that is only asked once: the same sums, to the bit.

On a CPU bitsandbytes unpacks a layer's weights at each call and forgets them, and an answer is written by a
call a token. Imported only where a base was loaded in 4 bits.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import bnb
from torch import nn
from torch.nn.functional import linear


class Unpacked(nn.Linear):
    """Holds a frozen 4-bit layer's weights in the type that it computes in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)

    @classmethod
    def of(cls, layer: Linear4bit) -> Unpacked:
        made = cls(layer.in_features, layer.out_features, bias=False, device="meta")
        values = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        made.weight = nn.Parameter(values, requires_grad=False)
        if layer.bias is not None:
            made.bias = nn.Parameter(layer.bias.data.to(values.dtype), requires_grad=False)
        return made.train(layer.training)


class UnpackedLora(bnb.Linear4bit):
    """Computes PEFT's LoRA layer above an unpacked layer: its answer to the bit, and nothing around."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        adapter = self.active_adapters[0] if len(self.active_adapters) == 1 else None
        off = self.disable_adapters or self.merged or self.training or adapter not in self.lora_A
        if args or kwargs or off or torch.is_autocast_enabled():
            answer: torch.Tensor = super().forward(x, *args, **kwargs)
            return answer
        down, up = self.lora_A[adapter], self.lora_B[adapter]
        update = linear(linear(x.to(down.weight.dtype), down.weight, down.bias), up.weight, up.bias)
        found: torch.Tensor = self.base_layer(x)
        return found.add_(update.mul_(self.scaling[adapter]).to(found.dtype))


def unpack(model: nn.Module, most: int) -> bool:
    """Put such layers in the place of a model's packed ones; says whether they take `most` bytes or fewer.

    `model`: on the CPU, in evaluation mode.
    """
    layers = {name: layer for name, layer in model.named_modules() if _can_be(layer)}
    taken = sum(
        each.out_features * each.in_features * each.compute_dtype.itemsize for each in layers.values()
    )
    if taken > most:
        return False
    for name, layer in layers.items():
        model.set_submodule(name, Unpacked.of(layer))
    return True


def plain_lora(model: nn.Module) -> None:
    """Make PEFT's layers above unpacked ones such layers; DoRA's stay."""
    for layer in model.modules():
        if type(layer) is bnb.Linear4bit and type(layer.base_layer) is Unpacked and not layer.lora_variant:
            layer.__class__ = UnpackedLora


def _can_be(layer: nn.Module) -> bool:
    """Say whether a layer multiplies by its weights as they were before they were packed, [out, in], in one
    type.
    """
    if type(layer) is not Linear4bit:
        return False
    packed = layer.weight.quant_state
    shape = (layer.out_features, layer.in_features)
    return tuple(packed.shape) == shape and packed.dtype == layer.compute_dtype
