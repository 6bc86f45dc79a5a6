"""The merged model: a plain transformers folder that needs no PEFT, with the adapter kept inside it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError
from ft_dagster.export.adapter import check_shapes, copy_adapter, read_adapter_config
from ft_dagster.export.models import ADAPTER_CONFIG, ADAPTER_WEIGHTS, load_model
from ft_dagster.export.serving import save_serving_files

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KEPT = "adapter"  # merging cannot be undone, so the adapter stays beside the merged weights
SMALLEST_EXPONENT = {8: -125, 11: -13}  # of the normal numbers of bfloat16 and float16, as frexp counts
NOT_MERGED = ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING")


def export_merged(base: Path, base_digest: str, adapter: Path, target: Path) -> dict[str, Any]:
    """Merge the adapter into its base and write it to `target`; returns figures (dtype, stop tokens).

    The sum W + scale * BA is taken by PEFT in float32 on the CPU, then rounded to the dtype each weight
    has in the base: the bytes do not depend on the accelerator. Raises UserError.
    """
    config = read_adapter_config(adapter, base_digest)
    if config.get("peft_type") in NOT_MERGED:
        raise UserError(
            "prompts and prefixes have no weights to merge into the base",
            file=adapter / ADAPTER_CONFIG,
            field="peft_type",
            value=config["peft_type"],
            fix="Declare `export: adapter`",
        )
    check_shapes(base, adapter)
    model = _merge(base, adapter)
    model.save_pretrained(target, max_shard_size="4GB")
    copy_adapter(adapter, config, target / KEPT)
    stop = save_serving_files(base, adapter, target)
    return {"dtype": str(model.dtype).removeprefix("torch."), "stop_token_ids": stop}


def _merge(base: Path, adapter: Path) -> Any:
    from peft import PeftModel

    model = load_model(base)
    stored = {name: tensor.dtype for name, tensor in _tensors(model)}
    adapted = PeftModel.from_pretrained(model.float(), adapter, is_trainable=False)
    try:
        merged = adapted.merge_and_unload(safe_merge=True)
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


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def round_unbiased(name: str, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 `weights` in `dtype`, each rounded up or down with odds that keep its mean.

    The draw is seeded by the tensor's name. A weight that `dtype` holds exactly stays as it is.

    To the nearest, an update below half a step of the base's weight vanishes, and of one a few steps large a
    good part does, all in the same direction: the model falls back towards its base. Here the errors
    cancel over the inputs of a layer (stochastic rounding, Gupta et al. 2015, arXiv 1502.02551).
    """
    import torch

    digits = {torch.bfloat16: 8, torch.float16: 11}.get(dtype)
    if digits is None:
        return weights.to(dtype)
    draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    exponent = torch.frexp(weights).exponent.clamp(min=SMALLEST_EXPONENT[digits])
    step = torch.ldexp(torch.ones_like(weights), exponent - digits)
    chance = torch.rand(weights.shape, generator=draw)
    return ((weights / step + chance).floor() * step).to(dtype)
