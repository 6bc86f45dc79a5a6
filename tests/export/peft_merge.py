"""The merge as PEFT does it, on the whole model in memory: what the streaming merge is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ft_dagster.evaluation.models.load import load_base, load_dequantized, put_adapter
from ft_dagster.models.quantize import quantization_of
from ft_dagster.training.rounding import round_unbiased


def merge_with_peft(base: Path, adapter: Path, target: Path, *, original: bool = False) -> Any:
    """Save the merged model to `target`; returns it in float32, before it was rounded."""
    import torch

    quantization = None if original else quantization_of(adapter)
    dtype = torch.bfloat16 if quantization else load_base(base).dtype
    model = load_dequantized(base, quantization) if quantization else load_base(base, dtype="float32")
    merged = put_adapter(model, adapter, widen=True).merge_and_unload(safe_merge=True)
    sums = {name: weight.data for name, weight in merged.named_parameters()}
    for name, weight in merged.named_parameters():
        weight.data = round_unbiased(name, weight.data, dtype)
    merged.config.dtype = dtype
    merged.save_pretrained(target)
    for name, weight in merged.named_parameters():
        weight.data = sums[name]
    return merged.float()
