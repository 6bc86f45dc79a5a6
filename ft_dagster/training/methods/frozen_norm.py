"""Computes frozen RMS norms in one piece: of each, autograd keeps its input and one number a position.

transformers' own keeps three tensors of its input's size in fp32. For norms that compute as Llama's does, as
most do, and whose weight is not trained. Imported only where torch is.
"""

from __future__ import annotations

from functools import partial
from types import CodeType
from typing import Any

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm


def norms_in_one_piece(model: nn.Module) -> None:
    """Make the frozen norms of `model` that compute as Llama's does such ones; not those ZeRO-3 gathers."""
    for norm in model.modules():
        own = type(norm).__dict__.get("forward")
        if own is None or not _same(getattr(own, "__code__", None), LlamaRMSNorm.forward.__code__):
            continue
        if not norm.weight.requires_grad and not hasattr(norm.weight, "ds_id"):
            norm.forward = partial(_forward, norm)


def _forward(norm: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = _RmsNorm.apply(hidden_states, norm.weight, norm.variance_epsilon)
    return found


def _same(one: CodeType | None, other: CodeType) -> bool:
    return one is not None and all(
        getattr(one, part) == getattr(other, part) for part in ("co_code", "co_names", "co_consts")
    )


class _RmsNorm(torch.autograd.Function):
    """Computes w x / sqrt(mean(x^2) + epsilon) over the last dimension, in fp32 but for the product with
    w.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        wide = x.float()
        scale = wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, scale = ctx.saved_tensors
        grad, normal = (grads[0] * weight).float(), x.float() * scale
        along = (grad * normal).mean(-1, keepdim=True)
        return grad.addcmul_(normal, along, value=-1).mul_(scale).to(x.dtype), None, None
