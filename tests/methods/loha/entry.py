"""LoHa: the product, element by element, of two low-rank updates (Hyeon-Woo et al. 2021)."""

from __future__ import annotations

from ft_dagster.methods.base_facts import BaseFacts
from ft_dagster.methods.layers import LayerSettings
from ft_dagster.methods.lora import DEFAULTS, EPOCHS, RATES, UTILIZATION, Alpha
from ft_dagster.methods.method import Figure, Method


class LohaSettings(LayerSettings):
    """A rank of either update, and what both together are scaled by."""

    name: str = "loha"
    alpha: Alpha = 32.0

    def trainable_parameters(self, base: BaseFacts, new_tokens: int = 0) -> int:
        """Two updates, and no rows of new tokens."""
        return 2 * super().trainable_parameters(base)


METHOD = Method(
    name="loha",
    order=6,
    trains="layers",
    settings=LohaSettings,
    defaults={name: DEFAULTS[name] for name in ("rank", "alpha", "target_modules")},
    usual=Figure(6, "a relative of LoRA that few servers load"),
    rates=RATES,
    epochs=EPOCHS,
    utilization=UTILIZATION,
    exports=("adapter",),
    smaller=("qlora",),
)
