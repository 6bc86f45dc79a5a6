"""Chooses the attention that a base computes by: what its class in transformers supports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Attention = Literal["sdpa", "eager"]


def attention_of(config: PreTrainedConfig) -> Attention:
    """Return torch's own attention, which makes no scores of a whole row on a GPU; eager, which makes them,
    where the class says that it has none: sinks and a cap on scores are no part of SDPA.
    """
    kind: Any = class_of(config)
    return "sdpa" if kind is None or getattr(kind, "_supports_sdpa", False) else "eager"


def class_of(config: PreTrainedConfig) -> Any:
    """Return transformers' class of a causal language model; None where it has none of this type."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM._model_mapping.get(type(config), None)
