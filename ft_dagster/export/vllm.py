"""Which adapters vLLM loads, and with which arguments (its lora/peft_helper.py and config/lora.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOADED_AS = {  # arguments of BitsAndBytesConfig, by how the base was quantized in training
    "nf4": 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
    'bnb_4bit_compute_dtype="bfloat16"',
    "int8": "load_in_8bit=True",
}
MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank may be


def rank_of(config: Mapping[str, Any]) -> int:
    """The largest rank of any layer of an adapter_config.json; 0 for an adapter without ranks."""
    return max([config.get("r") or 0, *(config.get("rank_pattern") or {}).values()])


_LOADED_OR_NAMED = ("LORA", "PROMPT_TUNING", "PREFIX_TUNING")  # the last two are told by another reason


def max_lora_rank(rank: int) -> int | None:
    """The smallest --max-lora-rank under which an adapter of this rank loads; None above them all."""
    return next((allowed for allowed in MAX_RANKS if rank <= allowed), None)


def not_loaded(config: Mapping[str, Any]) -> list[str]:
    """Why vLLM does not load the adapter of this adapter_config.json, or scales it wrongly: "is a DoRA
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
        "has ranks or alphas by layer": config.get("rank_pattern") or config.get("alpha_pattern"),
        f"has rank {rank}, above {MAX_RANKS[-1]}": max_lora_rank(rank) is None,
    }
    return [reason for reason, holds in reasons.items() if holds]


def serve_command(config: Mapping[str, Any], name: str, kind: str | None) -> str | None:
    """The command that serves the adapter as `name` on its base, quantized as in training (`kind`: nf4).

    None where vLLM does not load the adapter, or quantizes no base that way (int8).
    """
    if not_loaded(config) or kind not in (None, "nf4"):
        return None
    quantized = " --quantization bitsandbytes" if kind else ""
    rank = max_lora_rank(rank_of(config))
    return f"vllm serve BASE{quantized} --enable-lora --max-lora-rank {rank} --lora-modules {name}=EXPORT"
