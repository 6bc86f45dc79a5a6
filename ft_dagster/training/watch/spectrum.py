"""Computes the singular values of a LoRA update per layer, and what they say about its rank."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from ft_dagster.training.methods.starts import START

if TYPE_CHECKING:
    from torch import Tensor

USED = 0.01  # by convention; below it a direction adds a ten-thousandth of the largest one's energy
# The rank could be halved twice. At a half, common in healthy trainings, it would cry wolf.
COLLAPSED_SHARE = 0.25
# Where a rank suffices the values fall off, and the best approximation of that rank (Eckart-Young) drops only
# what is smaller still. With the smallest kept one above a quarter of the largest, what was dropped may be of
# the same order.
FLAT_CONDITION = 4.0
COLLAPSE, FLAT = ABOUT_RANK = ("rank collapse", "flat spectrum")  # how its advice begins
FLAT_SHARE = 0.5  # of the layers: more than half, so that the median layer is flat


@dataclass(frozen=True)
class Layer:
    """Holds one layer's update: its singular values, largest first, at most `rank` of them. `times`: so many
    times the rank of the plan.
    """

    name: str
    rank: int
    values: tuple[float, ...]
    times: int = 1

    @property
    def trained(self) -> bool:
        """Say whether there is an update at all: B starts at zero."""
        return bool(self.values) and self.values[0] > 0

    @property
    def effective_rank(self) -> float:
        """Return exp of the entropy of the values as shares of their sum (Roy and Vetterli, 2007)."""
        whole = sum(self.values)
        shares = [value / whole for value in self.values if value > 0]
        return math.exp(-sum(share * math.log(share) for share in shares))

    @property
    def used_ranks(self) -> int:
        """Count the directions above a hundredth of the largest."""
        return sum(value > USED * self.values[0] for value in self.values)

    @property
    def condition(self) -> float:
        """Return the largest over the smallest value that rounding (float32) does not explain."""
        least = self.values[0] * self.rank * 2.0**-23
        return self.values[0] / min(value for value in self.values if value > least)

    @property
    def flat(self) -> bool:
        return self.used_ranks == self.rank and self.condition < FLAT_CONDITION

    @property
    def collapsed(self) -> bool:
        return self.effective_rank <= COLLAPSED_SHARE * self.rank

    def as_dict(self) -> dict[str, object]:
        known = {"effective_rank": self.effective_rank, "condition": self.condition} if self.trained else {}
        return {"name": self.name, "rank": self.rank, "values": list(self.values), **known}


def spectrum(model: Any, weights: Mapping[str, Tensor] | None = None) -> list[Layer]:
    """Return every updated layer of a LoRA model (DoRA: its BA part) in the model's order; none for other
    methods.

    Only the adapter that is trained counts, not a parent's beneath it; of one that began at a part of the
    base, what it learned, without its start. `weights`: the model's parameters by name, where they are spread
    over several processes.
    """
    return [
        Layer(name, a.shape[0], tuple(singular_values(a, b, scale)), times)
        for name, a, b, scale, times in factors(model, weights or {})
    ]


def leaves_out_experts(model: Any) -> bool:
    """Say whether tensors of experts are updated, which have no part in `spectrum`."""
    return any(getattr(each, "num_experts", 1) > 1 and hasattr(each, "lora_A") for each in model.modules())


def factors(model: Any, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor, float, int]]:
    """Yield (layer, A [rank, in], B [out, rank], scale, how many times the plan's rank that is) of each layer
    that is trained and whole on this process; not of a tensor that holds many experts, each with an update of
    its own.
    """
    import torch

    for name, module in model.named_modules():
        if getattr(module, "num_experts", 1) > 1:
            continue
        for adapter in getattr(module, "lora_A", None) or ():
            a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
            if not a.requires_grad:
                continue
            a = weights.get(f"{name}.lora_A.{adapter}.weight", a)
            b = weights.get(f"{name}.lora_B.{adapter}.weight", b)
            begun = START in module.lora_A
            if begun:  # with the start taken out: twice the rank, as it is exported
                a = torch.cat([a, module.lora_A[START].weight])
                b = torch.cat([b, module.lora_B[START].weight], dim=1)
            if a.numel() and b.numel():
                yield _short(name), a, b, float(module.scaling[adapter]), 1 + begun


def singular_values(a: Tensor, b: Tensor, scale: float) -> list[float]:
    """Return the singular values of scale * B @ A, largest first, in float32 on the CPU.

    B = Q R and A^T = P S with orthogonal Q and P, so B @ A has the values of R @ S^T, [rank, rank].
    """
    import torch

    with torch.no_grad():
        right = torch.linalg.qr(b.detach().float().cpu(), mode="r").R
        left = torch.linalg.qr(a.detach().float().cpu().T, mode="r").R
        values: list[float] = (abs(scale) * torch.linalg.svdvals(right @ left.T)).tolist()
    return values


def summary(layers: list[Layer]) -> dict[str, object]:
    """Summarize the layers that have an update: medians, and the shares that are collapsed or flat."""
    trained = [layer for layer in layers if layer.trained]
    if not trained:
        return {"layers": 0}
    return {
        "layers": len(trained),
        "rank": round(median(layer.rank for layer in trained)),
        "effective_rank": median(layer.effective_rank for layer in trained),
        "used_ranks": round(median(layer.used_ranks for layer in trained)),
        "condition": median(layer.condition for layer in trained),
        "collapsed": sum(layer.collapsed for layer in trained) / len(trained),
        "flat": sum(layer.flat for layer in trained) / len(trained),
        **({"times": times} if (times := max(layer.times for layer in trained)) > 1 else {}),
    }


def advice(summarized: Mapping[str, Any]) -> list[str]:
    """Say what to try, in words; nothing where the rank fits, there is no update yet, or the rank is 1."""
    if not summarized.get("layers") or summarized["rank"] < 2:
        return []
    rank, effective, times = summarized["rank"], summarized["effective_rank"], summarized.get("times", 1)
    if collapsed(summarized):
        of_plan = "" if times == 1 else f" ({times} times the plan's, for what it began at is taken out)"
        return [
            f"{COLLAPSE}: the updates use about {round(effective)} of {rank} ranks{of_plan}:"
            f" try rank {_power_of_two(effective / times)}"
        ]
    if summarized["flat"] > FLAT_SHARE:
        twice = 2 * rank // times
        return [f"{FLAT}: all {rank} singular values are alike: rank may be too small, try {twice}"]
    return []


def collapsed(summarized: Mapping[str, Any]) -> bool:
    """Say whether the median layer uses no more than a quarter of its rank."""
    return bool(summarized.get("layers")) and (
        summarized["effective_rank"] <= COLLAPSED_SHARE * summarized["rank"]
    )


def _power_of_two(ranks: float) -> int:
    """Return the next power of two at or above, with the rounding of "about n"."""
    return 2 ** math.ceil(math.log2(max(1, round(ranks))))


def _short(name: str) -> str:
    return name.removeprefix("base_model.model.")
