"""The merged model: a plain transformers folder that needs no PEFT, with the adapter kept inside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ft_dagster.data.quantize import Quantization, quantization_of
from ft_dagster.data.weights import CONFIG, INDEX, weight_files
from ft_dagster.errors import UserError
from ft_dagster.evaluation.weights import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    kind_of,
    load_base,
    load_dequantized,
    put_adapter,
)
from ft_dagster.export.adapter import check_shapes, copy_adapter, read_adapter_config
from ft_dagster.export.serving import save_serving_files
from ft_dagster.training.rounding import round_unbiased

KEPT = "adapter"  # merging cannot be undone, so the adapter stays beside the merged weights
NOT_MERGED = ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING")


def export_merged(base: Path, base_digest: str, weights: Path, target: Path) -> dict[str, Any]:
    """Write the trained weights as one plain model; returns figures (dtype, stop tokens). Raises UserError.

    A whole model is copied. For an adapter, the sum W + scale * BA is taken by PEFT in float32 on the CPU,
    then rounded to the dtype each weight has in the base: the bytes do not depend on the accelerator. Where
    the base was quantized in training, W is what the quantized base computes with, and the sum is bfloat16.
    """
    if kind_of(weights) == "model":
        return _copy_whole(weights, target)
    config = read_adapter_config(weights, base_digest)
    if config.get("peft_type") in NOT_MERGED:
        raise UserError(
            "prompts and prefixes have no weights to merge into the base",
            file=weights / ADAPTER_CONFIG,
            field="peft_type",
            value=config["peft_type"],
            fix="Declare `export: adapter`",
        )
    check_shapes(base, weights)
    quantization = quantization_of(weights)
    model = merge(base, weights, quantization)
    model.save_pretrained(target, max_shard_size="4GB")
    copy_adapter(weights, config, target / KEPT)
    figures = {"dtype": str(model.dtype).removeprefix("torch."), "quantization": quantization}
    figures = {name: value for name, value in figures.items() if value is not None}
    return {**figures, "stop_token_ids": save_serving_files(base, weights, target)}


def merge(base: Path, adapter: Path, quantization: Quantization | None = None) -> Any:
    """The base with the adapter summed into it, a plain model in the base's dtype (bfloat16 if quantized)."""
    import torch

    if quantization is None:
        model = load_base(base)
        stored = {name: tensor.dtype for name, tensor in _tensors(model)}
        model = model.float()
    else:
        model = load_dequantized(base, quantization)
        stored = {name: tensor.dtype for name, tensor in model.named_buffers()}
        stored |= {name: torch.bfloat16 for name, _ in model.named_parameters()}
    try:
        merged = put_adapter(model, adapter, widen=True).merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UserError(
            f"the merged weights are not finite: {error}",
            file=adapter / ADAPTER_WEIGHTS,
            fix="Train the variant again with a lower learning_rate",
        ) from None
    # One by one: model.to(bfloat16) would round the rotary frequencies too.
    for name, tensor in _tensors(merged):
        tensor.data = round_unbiased(name, tensor.data, stored[name])
    return merged


def _copy_whole(weights: Path, target: Path) -> dict[str, Any]:
    """The judged files as they are, and what a server needs beside them."""
    config = json.loads((weights / CONFIG).read_text("utf-8"))
    names = weight_files(weights)
    target.mkdir(parents=True, exist_ok=True)
    for name in [CONFIG, *names, *([INDEX] if (weights / INDEX).is_file() else [])]:
        shutil.copyfile(weights / name, target / name)
    stop = save_serving_files(weights, weights, target)
    return {"dtype": config.get("dtype"), "already_merged": True, "stop_token_ids": stop}


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
