"""Lays out the frozen weights of a model that is only asked as oneDNN's products on a CPU read them.

In bf16 the sums are the same, to the bit: torch lays a plain weight out anew at each call, which for few rows
takes as long as the product, and an answer is written by a call a token. In float32 they are the same to
rounding: torch multiplies plain weights by MKL, which on processors that are not Intel's takes twice as long.
The layout is what torch's inductor prepares; where this torch has none, or it gives other sums, the weights
stay plain. Imported only where torch is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn
from torch.nn.functional import linear

ALIKE = {torch.bfloat16: 0.0, torch.float32: 1e-5}  # how near the sums are, of the largest of them
ROWS = (1, 3, 64)  # each shape of a weight is tried with


class Packed(nn.Linear):
    """Is a linear layer with packed weights, and its plain one only where that is kept."""

    packed: torch.Tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _product(x, self.packed, self.bias)


def pack(model: nn.Module, most: int) -> bool:
    """Make a model's plain layers such ones, but for its adapters'; says whether it did.

    In bf16 plain weights stay beside the copies, as they may be a file's pages that programs share, and
    nothing is done where the copies take more than `most` bytes. In float32 a plain weight goes, unless
    another layer has it too, and NaNs that take no memory stand for it: what is measured must not depend
    on the memory that is free. A layer in float32 whose weight an adapter reads stays plain. The model is
    asked without gradients and changes no more. On a GPU, and in another type, nothing is done.
    """
    adapters = {part for each in model.modules() if isinstance(each, nn.ModuleDict) for part in each.values()}
    plain = adapters | _read_by_adapters(model)
    layers = [layer for layer in model.modules() if layer not in plain and _can_be(layer)]
    copied = sum(layer.weight.nbytes for layer in layers if layer.weight.dtype == torch.bfloat16)
    if not layers or copied > most or not _give_the_same(layers):
        return False
    shared = _shared(model)
    for layer in layers:
        layer.packed = _packed(layer.weight)
        if layer.weight.dtype == torch.float32 and layer.weight.data_ptr() not in shared:
            nothing = torch.full((), torch.nan).expand(layer.weight.shape)
            layer.weight = nn.Parameter(nothing, requires_grad=False)
        layer.__class__ = Packed
    return True


def _can_be(layer: Any) -> bool:
    if type(layer) is not nn.Linear or layer.weight.dtype not in ALIKE:
        return False
    return layer.weight.device.type == "cpu" and type(layer.weight.data) is torch.Tensor


def _read_by_adapters(model: nn.Module) -> set[Any]:
    """Return the layers in float32 whose weight an adapter reads: DoRA's norms, a head with trained rows of
    tokens.
    """
    adapted = [
        layer for layer in model.modules() if isinstance(getattr(layer, "base_layer", None), nn.Linear)
    ]
    more = [layer for layer in adapted if not isinstance(layer, LoraLinear) or layer.lora_variant]
    return {layer.base_layer for layer in more if layer.base_layer.weight.dtype == torch.float32}


def _shared(model: nn.Module) -> set[int]:
    """Return the addresses of weights that several layers have."""
    seen: dict[int, int] = {}
    for layer in model.modules():
        for weight in layer.parameters(recurse=False):
            seen[weight.data_ptr()] = seen.get(weight.data_ptr(), 0) + 1
    return {at for at, times in seen.items() if times > 1}


def _give_the_same(layers: Sequence[Any]) -> bool:
    """Say whether packed layers give the same; one layer of each shape is tried, since these are torch's own
    inner functions.
    """
    kinds = {(each.weight.dtype, each.weight.shape, each.bias is None): each for each in layers}
    with torch.no_grad():
        return all(_gives_the_same(layer, rows) for layer in kinds.values() for rows in ROWS)


def _gives_the_same(layer: Any, rows: int) -> bool:
    x = torch.linspace(-1, 1, rows * layer.in_features).to(layer.weight.dtype).view(rows, -1)
    plain = linear(x, layer.weight, layer.bias)
    try:
        found = _product(x, _packed(layer.weight), layer.bias)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    return bool((found - plain).abs().max() <= ALIKE[plain.dtype] * plain.abs().max())


def _packed(weight: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
    return found


def _product(x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    found: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return found
