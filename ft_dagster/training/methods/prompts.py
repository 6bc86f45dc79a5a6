"""Builds what prompt and prefix tuning share: learned positions before the text, and nothing within the
base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ft_dagster.errors import UserError
from ft_dagster.methods.prompt_tuning import PromptSettings
from ft_dagster.training.contract import Base
from ft_dagster.training.methods.adapter import ADAPTER, Adapter, Learned

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ft_dagster.training.methods import Weights


class LearnedPrompt(Adapter):
    """Trains one example a row: PEFT hands no position_ids on, by which packed ones are told apart."""

    def __init__(self, settings: PromptSettings) -> None:
        super().__init__(settings)
        self.settings = settings

    def check(self, base: Base) -> None:
        if base.new_token_ids:
            raise UserError(
                f"{self.name} trains no rows of the vocabulary",
                field="base_model.new_tokens",
                value=len(base.new_token_ids),
                fix="Use lora or full",
            )
        if base.parent:
            raise UserError(
                f"{self.name} cannot be stacked on another adapter",
                file=base.parent.adapter,
                field="base_model.parent_adapter",
                value="stack",
                fix="Say fold: the parent is merged into a base of its own first",
            )

    def learned(self, model: PreTrainedModel, weights: Weights | None) -> Learned:
        state = model.state_dict() if weights is None else weights
        tensors = {"prompt_embeddings": state[f"prompt_encoder.{ADAPTER}.embedding.weight"]}
        return Learned(model.peft_config[ADAPTER].to_dict(), tensors)
