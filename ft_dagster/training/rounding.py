"""Rounding weights without falling back towards the base: float32 sums written in bfloat16 or float16."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SMALLEST_EXPONENT = {8: -125, 11: -13}  # of the normal numbers of bfloat16 and float16, as frexp counts


def round_unbiased(name: str, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 `weights` in `dtype`, each rounded up or down with odds that keep its mean.

    The draw is seeded by the tensor's name. A weight that `dtype` holds exactly stays as it is.

    To the nearest, an update below half a step of the base's weight vanishes, and of one a few steps large a
    good part does, all in the same direction: the model falls back towards its base. Here the errors
    cancel over the inputs of a layer (stochastic rounding, Gupta et al. 2015, arXiv 1502.02551).
    """
    import torch

    digits = {torch.bfloat16: 8, torch.float16: 11}.get(dtype)
    if digits is None:
        return weights.to(dtype)
    draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    exponent = torch.frexp(weights).exponent.clamp(min=SMALLEST_EXPONENT[digits])
    step = torch.ldexp(torch.ones_like(weights), exponent - digits)
    chance = torch.rand(weights.shape, generator=draw)
    return ((weights / step + chance).floor() * step).to(dtype)
