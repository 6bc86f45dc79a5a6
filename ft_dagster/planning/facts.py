"""Defines what a plan is made from, besides the declaration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ft_dagster.methods.base_facts import BaseFacts


@dataclass(frozen=True)
class Facts(BaseFacts):
    """Counts the mixture, the base model's headers and the host."""

    examples: int  # training examples of the mixture, general ones among them
    tokens: int
    trained_tokens: int
    general_share: float  # of the tokens that data.general.share_of names, as it came out
    max_length: int
    device_kind: Literal["cpu", "cuda"]
    ranks: int  # processes that train together: GPUs, or shares of a CPU
    device_memory: int | None  # bytes of one device, None where unknown
    bf16: bool  # the hardware computes in bf16
    validation: int = 64  # examples to choose by
    longest: int | None = None  # example of the mixture, in tokens; None: as long as may be
    shared: int = 0  # tokens of an epoch that beginnings in common save; 0: none, or not counted
    leak: str | None = None  # why packed examples of the base reach each other; None: they are kept apart

    @property
    def computed(self) -> int:
        """Count the tokens of an epoch that are computed: what examples have in common once, where it is to
        be shared.
        """
        return self.tokens - self.shared
