"""LoHa through PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError
from ft_dagster.training.contract import Base
from ft_dagster.training.methods.adapter import Adapter

if TYPE_CHECKING:
    from ft_dagster.methods.loha import LohaSettings
    from transformers import PreTrainedModel


class Loha(Adapter):
    """No `module_dropout`: with it a step looks at values, which a dry run has none of."""

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
