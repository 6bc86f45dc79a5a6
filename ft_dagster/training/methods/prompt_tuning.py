"""Trains prompt tuning (Lester et al. 2021): learned embeddings before the text, begun as drawn words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ft_dagster.training.contract import Base
from ft_dagster.training.methods.prompts import LearnedPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PromptTuning(LearnedPrompt):
    """Trains the embeddings of virtual tokens that stand before each prompt."""

    def configure(self, model: PreTrainedModel, base: Base) -> Any:
        from peft import PromptTuningConfig

        return PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.settings.num_virtual_tokens,
            prompt_tuning_init="SAMPLE_VOCAB",
        )
