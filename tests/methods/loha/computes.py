"""LoHa through PEFT."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError
from ft_dagster.training.contract import Base
from ft_dagster.training.methods.adapter import Adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tests.methods.loha.entry import LohaSettings  # ft_dagster.methods.loha, in the package


class Loha(Adapter):
    """Of PEFT's, without `module_dropout`."""

    def __init__(self, settings: LohaSettings) -> None:
        super().__init__(settings)
        self.settings = settings

    def check(self, base: Base) -> None:
        if base.new_token_ids:
            raise UserError(
                "loha trains no rows of the vocabulary",
                field="base_model.new_tokens",
                value=len(base.new_token_ids),
                fix="Use lora or full",
            )

    def configure(self, model: PreTrainedModel, base: Base) -> Any:
        from peft import LoHaConfig

        targets = self.settings.target_modules
        return LoHaConfig(
            task_type="CAUSAL_LM",
            r=self.settings.rank,
            alpha=int(self.settings.alpha),
            target_modules=targets if isinstance(targets, str) else sorted(targets),
        )

    def settle(self, model: PreTrainedModel) -> None:
        """PEFT draws whether a module is left out even where none is, and a dry run has no such number."""
        from peft.tuners.loha.layer import LoHaLayer

        super().settle(model)
        for layer in model.modules():
            if isinstance(layer, LoHaLayer):
                layer.forward = partial(_undrawn, layer, layer.forward)


def _undrawn(layer: Any, drawn: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    if layer.disable_adapters or layer.merged:
        return drawn(x, *args, **kwargs)
    given = layer.base_layer(x, *args, **kwargs)
    for name in layer.active_adapters:
        given = given + layer._get_delta_activations(name, x, *args, **kwargs)
    return given.to(x.dtype)
