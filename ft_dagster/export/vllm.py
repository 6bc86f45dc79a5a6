"""Says with which arguments vLLM serves an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ft_dagster.evaluation.models.loaded_by_vllm import max_lora_rank, not_loaded, rank_of

LOADED_AS = {  # arguments of BitsAndBytesConfig, by how the base was quantized in training
    "nf4": 'load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, '
    'bnb_4bit_compute_dtype="bfloat16"',
    "int8": "load_in_8bit=True",
}


def serve_command(config: Mapping[str, Any], name: str, kind: str | None) -> str | None:
    """Return the command that serves the adapter as `name` on its base, quantized as in training (`kind`:
    nf4).

    None where vLLM does not load the adapter, or quantizes no base that way (int8).
    """
    if not_loaded(config) or kind not in (None, "nf4"):
        return None
    quantized = " --quantization bitsandbytes" if kind else ""
    rank = max_lora_rank(rank_of(config))
    return f"vllm serve BASE{quantized} --enable-lora --max-lora-rank {rank} --lora-modules {name}=EXPORT"
