"""Counts FLOPs of what runs under it, by torch's own formulas. Imported only where torch is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.flop_counter import flop_registry

from ft_dagster.fake_tensors import EagerMode

EXPERTS = "transformers::grouped_mm_fallback"  # of which torch has no formula


class Counter(EagerMode):
    """Counts `total`, and nothing by module, in half the time of torch's FlopCounterMode.

    For what autograd dispatches: an operation that comes undecomposed under inference_mode counts nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        out = func(*args, **named)
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **named, out_val=out)
        elif func.name().startswith(EXPERTS):
            self.total += _of_experts(func.name(), *args)
        return out


def _of_experts(name: str, rows: Any, weight: Any, *_: Any) -> int:
    """Count the product of rows [rows, in], each with its expert's matrix of `weight` [experts, in, out]; its
    backward pass has one for the rows, and one for the weight where that needs a gradient.
    """
    product = 2 * int(rows.shape[0]) * math.prod(weight.shape[1:])
    return product * (1 + weight.requires_grad) if name.endswith("_backward") else product
