"""Rounds float32 sums to bfloat16 or float16 without falling back towards the base."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK = 1 << 16  # weights rounded at once: what they need in between stays in a CPU's cache
_DIGITS, _SMALLEST_EXPONENT = 11, -13  # of float16's numbers, the exponent as frexp counts


def round_unbiased(name: str, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float32 `weights` in `dtype`, each rounded up or down with odds that keep its mean.

    The draw is seeded by the tensor's name. A weight that `dtype` holds exactly stays as it is.

    To the nearest, an update below half a step of the base's weight vanishes, and of one a few steps large a
    good part does, all in the same direction: the model falls back towards its base. Here the errors
    cancel over the inputs of a layer (stochastic rounding, Gupta et al. 2015, arXiv 1502.02551).
    """
    return Rounding(name, dtype)(weights)


class Rounding:
    """Applies `round_unbiased` to one tensor that comes in parts, in order: the same result however it is
    cut.
    """

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        import torch

        self._dtype = dtype
        self._draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def __call__(self, weights: Tensor) -> Tensor:
        """Return the next float32 weights of the tensor, on the CPU, in the dtype."""
        import torch

        if self._dtype not in (torch.bfloat16, torch.float16):
            return weights.to(self._dtype)
        round_ = self._cut if self._dtype == torch.bfloat16 else self._step
        rounded = torch.empty(weights.shape, dtype=self._dtype)
        parts = zip(rounded.view(-1).split(BLOCK), weights.reshape(-1).split(BLOCK), strict=True)
        for to, part in parts:
            to.copy_(round_(part))
        return rounded

    def _cut(self, weights: Tensor) -> Tensor:
        """Cut to bfloat16, the upper half of float32: a random lower half is added, and what it carries
        stays.
        """
        import torch

        noise = torch.empty(weights.shape, dtype=torch.int16).random_(
            -(1 << 15), 1 << 15, generator=self._draw
        )
        bits = noise.to(torch.int32).bitwise_and_(0xFFFF).add_(weights.view(torch.int32))
        return bits.bitwise_right_shift_(16).to(torch.int16).view(torch.bfloat16)

    def _step(self, weights: Tensor) -> Tensor:
        """Round by counted steps: float16 has fewer exponents than float32."""
        import torch

        exponent = torch.frexp(weights).exponent.clamp(min=_SMALLEST_EXPONENT)
        step = torch.ldexp(torch.ones_like(weights), exponent - _DIGITS)
        # As fine as a float32 of so many steps: the sum is then exact, and whole steps stay whole.
        finest = 1 << (24 - _DIGITS)
        chance = torch.randint(finest, weights.shape, generator=self._draw).float() / finest
        return ((weights / step + chance).floor() * step).to(self._dtype)
