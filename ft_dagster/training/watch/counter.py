"""Counts FLOPs of what runs under it, by torch's own formulas. Imported only where torch is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.flop_counter import flop_registry

from ft_dagster.fake_tensors import EagerMode


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
        return out
