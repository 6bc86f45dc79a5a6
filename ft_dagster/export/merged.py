"""Exports the merged model: a plain transformers folder that needs no PEFT, with the adapter kept inside
it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ft_dagster.evaluation.models.load import kind_of
from ft_dagster.export.adapter import check_shapes, copy_adapter, read_adapter_config
from ft_dagster.export.merging import check_mergeable, merge_weights
from ft_dagster.export.serving import save_serving_files
from ft_dagster.model_files.weights import CONFIG, INDEX, measure_weights, weight_files
from ft_dagster.models.quantize import quantization_of

KEPT = "adapter"  # merging cannot be undone, so the adapter stays beside the merged weights


def export_merged(
    base: Path, base_digest: str, weights: Path, target: Path, *, original: bool = False
) -> dict[str, object]:
    """Write the trained weights as one plain model; returns figures (dtype, stop tokens). Raises UserError.

    A whole model is copied. For an adapter, the sum W + scale * BA is taken in float32 on the CPU, file by
    file of the base, then rounded to the dtype each weight has in the base: the bytes do not depend on the
    accelerator. Where the base was quantized in training, W is what the quantized base computes with, and the
    sum is bfloat16; `original`: W as the base has it all the same.
    """
    if kind_of(weights) == "model":
        return _copy_whole(weights, target)
    config = read_adapter_config(weights, base_digest)
    check_mergeable(config, weights)
    check_shapes(base, weights)
    quantization = quantization_of(weights)
    merge_weights(base, weights, target, None if original else quantization)
    copy_adapter(weights, config, target / KEPT)
    figures = {"dtype": measure_weights(target, weight_files(target)).dtype, "quantization": quantization}
    figures = {name: value for name, value in figures.items() if value is not None}
    return {**figures, "stop_token_ids": save_serving_files(base, weights, target)}


def _copy_whole(weights: Path, target: Path) -> dict[str, object]:
    """Copy the judged files as they are, and what a server needs beside them."""
    config = json.loads((weights / CONFIG).read_text("utf-8"))
    names = weight_files(weights)
    target.mkdir(parents=True, exist_ok=True)
    for name in [CONFIG, *names, *([INDEX] if (weights / INDEX).is_file() else [])]:
        shutil.copyfile(weights / name, target / name)
    stop = save_serving_files(weights, weights, target)
    return {"dtype": config.get("dtype"), "already_merged": True, "stop_token_ids": stop}
