"""A 4-bit base that is only asked, with its weights unpacked once: the same sums, to the bit.

On a CPU bitsandbytes unpacks a layer's weights at each call and forgets them, and an answer is written by a
call a token. Imported only where a base was loaded in 4 bits.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit
from torch import nn

SHARE = 4  # of the free memory at most a quarter: other programs of this host take from it too


class Unpacked(nn.Linear):
    """A frozen 4-bit layer's weights in the type that it computes in."""

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


def unpack(model: Any, free: int) -> bool:
    """Put such layers in the place of all that can be; says whether `free` bytes had the room for them.

    `model`: on the CPU, in evaluation mode.
    """
    layers = {name: layer for name, layer in model.named_modules() if _can_be(layer)}
    sizes = [_values(layer) * layer.compute_dtype.itemsize for layer in layers.values()]
    if sum(sizes) * SHARE > free:
        return False
    for name, layer in layers.items():
        model.set_submodule(name, Unpacked.of(layer))
    return True


def _can_be(layer: nn.Module) -> bool:
    """Whether it multiplies by its weights as they were before they were packed, [out, in], in one type."""
    if type(layer) is not Linear4bit:
        return False
    packed = layer.weight.quant_state
    shape = (layer.out_features, layer.in_features)
    return tuple(packed.shape) == shape and packed.dtype == layer.compute_dtype


def _values(layer: Linear4bit) -> int:
    return layer.in_features * layer.out_features
