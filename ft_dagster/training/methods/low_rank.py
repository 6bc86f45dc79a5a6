"""Computes a LoRA layer in one piece: the products of PEFT's own, which takes its input to fp32 and back on
the way.

What autograd keeps for such a layer is its input, with dropout a byte for each of its numbers, and the
rank-wide product. Layers that do more than plain LoRA stay PEFT's own: DoRA, quantized ones, several adapters
at once. Imported only where torch is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from peft.tuners.lora.layer import Linear
from torch import nn

from ft_dagster.evaluation.models.lora_layers import add_update

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class LowRankLinear(Linear):
    """Computes PEFT's linear layer with a LoRA in one piece, where that is all it does."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        weight, autocast = self.base_layer.weight, torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if autocast else x.dtype
        adapter = self.active_adapters[0] if len(self.active_adapters) == 1 else None
        if args or kwargs or self.disable_adapters or self.merged or adapter not in self.lora_A:
            return super().forward(x, *args, **kwargs)
        down, up = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        if weight.dtype != dtype or not (autocast or down.dtype == dtype):
            return super().forward(x)
        rate = getattr(self.lora_dropout[adapter], "p", 0.0) if self.training else 0.0
        if not (rate or torch.is_grad_enabled()):
            flat = x.reshape(-1, x.shape[-1]).to(dtype)
            inner = (flat @ down.to(dtype).T).mul_(self.scaling[adapter])
            out = nn.functional.linear(flat, weight, self.base_layer.bias)
            return add_update(out, inner, up.to(dtype)).view(*x.shape[:-1], out.shape[-1])
        found: torch.Tensor = _LowRank.apply(
            x.to(dtype), weight, self.base_layer.bias, down, up, self.scaling[adapter], rate
        )
        return found


def in_one_piece(model: nn.Module) -> None:
    """Make the plain LoRA layers of a PEFT model such ones; not those that ZeRO-3 gathers part by part."""
    for layer in model.modules():
        plain = type(layer) is Linear and type(layer.base_layer) is nn.Linear and not layer.lora_variant
        if plain and not hasattr(layer.base_layer.weight, "ds_id"):
            layer.__class__ = LowRankLinear


class _LowRank(torch.autograd.Function):
    """Computes x W' + b + s D(x) A' B' of x [..., in], W [out, in], A [rank, in], B [out, rank]; D is
    dropout.
    """

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
        dropout: float,
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        ctx.types, ctx.scaling = (down.dtype, up.dtype), scaling / (1 - dropout)
        down, up = down.to(x.dtype), up.to(x.dtype)
        kept = _kept(flat, dropout) if dropout else None
        inner = (_masked(flat, kept) @ down.T).mul_(ctx.scaling)
        out = add_update(nn.functional.linear(flat, weight, bias), inner, up)
        ctx.save_for_backward(flat, weight, down, up, inner, kept)
        shape = *x.shape[:-1], out.shape[-1]
        whole: torch.Tensor = torch.ops.aten._unsafe_view(out, shape)  # a base may add to it in place
        return whole

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        flat, weight, down, up, inner, kept = ctx.saved_tensors
        kept = None if kept is None else kept.to(_BITS[flat.dtype.itemsize])  # once for both
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        of_inner = (grad @ up).mul_(ctx.scaling)
        of_down, of_up = of_inner.T @ _masked(flat, kept), grad.T @ inner
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = grad @ weight
            if kept is None:
                torch.addmm(of_x, of_inner, down, out=of_x)
            else:
                of_x.add_(_masked(of_inner @ down, kept))
            of_x = of_x.view(*grads[0].shape[:-1], of_x.shape[-1])
        return of_x, None, None, of_down.to(ctx.types[0]), of_up.to(ctx.types[1]), None, None


def _kept(like: torch.Tensor, dropout: float) -> torch.Tensor:
    """Draw a dropout mask as int8: no bit set where an input is dropped, all of them elsewhere. torch draws
    its numbers on a CPU one by one, which takes as long as the products; here it draws the seed.
    """
    if like.device.type != "cpu" or type(like) is not torch.Tensor:  # or one that holds nothing
        return torch.empty_like(like, dtype=torch.int8).bernoulli_(1 - dropout).neg_()
    words = np.random.SFC64(int(torch.randint(2**62, ()))).random_raw(-(-like.numel() // 4))
    kept = words.view(np.int16)[: like.numel()] >= round(2**16 * dropout) - 2**15
    return torch.from_numpy(kept.view(np.int8)).neg_().view(like.shape)


def _masked(x: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    """Return x, and 0 where it is not kept. By its bits: on a CPU many times as fast as a mask of truth
    values.
    """
    if kept is None:
        return x
    bits = _BITS[x.dtype.itemsize]
    return x.view(bits).bitwise_and(kept.to(bits)).view(x.dtype)
