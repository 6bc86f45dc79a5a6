"""Trains prefix tuning (Li and Liang 2021): learned keys and values before the text, in every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from ft_dagster.errors import UserError
from ft_dagster.training.contract import Base
from ft_dagster.training.methods import Precision
from ft_dagster.training.methods.adapter import ADAPTER
from ft_dagster.training.methods.prompts import LearnedPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Drawn with deviation 1 as PEFT does, a prefix drowns the text: SmolLM2-135M starts at a loss of 11.3
# instead of 5.7; drawn with 0.1, at 5.8. With zeros all positions would learn the same.
FIRST_SCALE = 0.1


class PrefixTuning(LearnedPrompt):
    """Trains keys and values that stand in the cache, so the logits are those of the text alone."""

    def build(self, base: Base, precision: Precision, seed: int) -> PreTrainedModel:
        model = super().build(base, precision, seed)
        model.prompt_encoder[ADAPTER].embedding.weight.data.mul_(FIRST_SCALE)
        for name in ("gradient_checkpointing_enable", "activation_checkpointing_enable"):
            setattr(model, name, _refuse_checkpointing)
        return model

    def configure(self, model: PreTrainedModel, base: Base) -> Any:
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=self.settings.num_virtual_tokens)


def _refuse_checkpointing(*args: Any, **kwargs: Any) -> NoReturn:
    """Refuse gradient checkpointing: transformers would drop the cache, the prefix with it, and go on."""
    raise UserError(
        "prefix_tuning does not work with it: recomputed layers lose the prefix",
        field="training.gradient_checkpointing",
        value=True,
        fix="Say false, or use lora",
    )
