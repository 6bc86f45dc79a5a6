"""Tells which adapters vLLM loads (its lora/peft_helper.py and config/lora.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank may be


def rank_of(config: Mapping[str, Any]) -> int:
    """Return the largest rank of any layer of an adapter_config.json; 0 for an adapter without ranks."""
    return max([config.get("r") or 0, *(config.get("rank_pattern") or {}).values()])


_LOADED_OR_NAMED = ("LORA", "PROMPT_TUNING", "PREFIX_TUNING")  # the last two are told by another reason


def max_lora_rank(rank: int) -> int | None:
    """Return the smallest --max-lora-rank under which an adapter of this rank loads; None above them all."""
    return next((allowed for allowed in MAX_RANKS if rank <= allowed), None)


def not_loaded(config: Mapping[str, Any]) -> list[str]:
    """Return why vLLM does not load the adapter of this adapter_config.json, or scales it wrongly: "is a DoRA
    adapter", to be read after "it". Empty: it loads.
    """
    rank = rank_of(config)
    reasons = {
        "is a learned prompt or prefix": config.get("num_virtual_tokens"),
        "is no LoRA": config.get("peft_type", "LORA") not in _LOADED_OR_NAMED,
        "is a DoRA adapter": config.get("use_dora"),
        "carries whole modules": config.get("modules_to_save"),
        "carries trained rows of the vocabulary": config.get("trainable_token_indices"),
        "carries trained biases": config.get("bias") not in (None, "none"),
        "updates tensors of experts, which it is not known to load": config.get("target_parameters"),
        "has ranks or alphas by layer": config.get("rank_pattern") or config.get("alpha_pattern"),
        f"has rank {rank}, above {MAX_RANKS[-1]}": max_lora_rank(rank) is None,
    }
    return [reason for reason, holds in reasons.items() if holds]
