"""Compares the usual rules of thumb (docs/method-choice.md) with counted figures, with the reason where they
differ.

Their cost table says that full fine-tuning costs ten times LoRA. It is never the plan's own answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from ft_dagster.methods import method_of
from ft_dagster.planning.cost.training_cost import Spent, training_cost, utilization_of

EXAMPLES, EPOCHS = 50_000, 3.0
A100_PEAK, A100_USD = 312e12, 3.0
_NEAR = 0.15  # of a size
_LENGTH = "the rule of thumb names no length of an example, so its figure fits some length only"


@dataclass(frozen=True)
class Beside:
    """Compares the rule of thumb's USD for one method and size with the counted one for the same set-up."""

    method: str
    billions: int
    published_usd: tuple[float, float]
    counted: Spent
    reason: str | None  # None: the counted figure lies within the rule's

    def sentence(self) -> str:
        low, high = self.published_usd
        said = (
            f"{self.method}, {self.billions}B, {EXAMPLES:,} examples, {EPOCHS:g} epochs, an A100 at "
            f"${A100_USD:g}: the rule of thumb says ${low:,.0f} to ${high:,.0f}, "
            f"counted FLOPs ${self.counted.usd:,.0f}"
        )
        return said if self.reason is None else f"{said}: {self.reason}"


def beside_published(
    method: str, parameters: int, flops_per_token: float, tokens_per_example: float
) -> Beside | None:
    """Return the rule's row for this method and size (within 15%) beside the counted figure, if it has
    one.
    """
    published = method_of(method).published
    near = [size for size in published.usd if abs(parameters / 1e9 / size - 1) <= _NEAR] if published else []
    if published is None or not near:
        return None
    tokens = EXAMPLES * EPOCHS * tokens_per_example
    counted = training_cost(
        flops_per_token,
        tokens,
        gpus=1,
        peak_flops=A100_PEAK,
        usd_per_hour=A100_USD,
        utilization=utilization_of(method),
    )
    low, high = published.usd[near[0]]
    inside = counted.usd is not None and low <= counted.usd <= high
    reason = None if inside else f"{published.why_not}; {_LENGTH}"
    return Beside(method, near[0], (low, high), counted, reason)
