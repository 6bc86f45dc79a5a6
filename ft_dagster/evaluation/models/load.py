"""Loads what is judged: a base, or a payload that a training left, from local safetensors alone.

A payload is an adapter on its base (adapter_config.json; on a quantized base also quantization.json) or a
whole model (config.json). Every room that loads a model to look at it does so here. Imports torch and
transformers inside functions: Dagster imports this module.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ft_dagster.data.rendering.render import load_tokenizer
from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.arithmetic import USABLE_SHARE
from ft_dagster.launch.rank import LEASE
from ft_dagster.methods.method import Quantization
from ft_dagster.models.quantize import quantization_config, quantization_of, settle_quantized
from ft_dagster.models.stored import loaded_config

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Kind = Literal["adapter", "model"]
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MODEL_CONFIG = "config.json"


def kind_of(payload: Path) -> Kind:
    """Say whether trained weights are an adapter or a whole model. Raises UserError for neither."""
    if (payload / ADAPTER_CONFIG).is_file():
        return "adapter"
    if (payload / MODEL_CONFIG).is_file():
        return "model"
    raise UserError(
        f"not trained weights: neither {ADAPTER_CONFIG} nor {MODEL_CONFIG} is there",
        file=payload,
        fix="Name the payload folder of a fine_tuned_model",
    )


def load_base(
    folder: Path, *, dtype: str = "auto", device: str = "cpu", quantization: Quantization | None = None
) -> PreTrainedModel:
    """Load a causal language model in evaluation mode. Raises UserError.

    `dtype`: auto (as stored), bfloat16 or float32. `quantization`: nf4 or int8, computing in `dtype`. On
    `cuda` see `placement`.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options = placement(device) if device == "cuda" else {}
    if quantization is not None:
        _hush_bitsandbytes()
        options = options or {"device_map": {"": device}}  # a quantized model is not moved after it is loaded
        options["quantization_config"] = quantization_config(quantization, getattr(torch, dtype))
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=loaded_config(folder),
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            f"the model does not load: {_said(error)}",
            file=folder,
            fix="Give a folder with config.json and *.safetensors",
        ) from None
    _refuse_left_out(model, folder)
    if quantization is not None:
        settle_quantized(model)
    return model.eval()


def placement(device: str) -> dict[str, object]:
    """Return how transformers lays a model straight on a GPU: all of it; on the GPUs of a lease of several
    whole layers, about as much on each; without a lease on as few of those here as hold it. Raises UserError
    where there is none.
    """
    import torch
    from accelerate.utils import get_max_memory

    if not torch.cuda.is_available():
        raise UserError("this host has no usable GPU", field="device", value=device, fix="Evaluate on cpu")
    free = {at: nbytes for at, nbytes in get_max_memory().items() if isinstance(at, int)}
    if len(free) < 2:
        return {"device_map": {"": device}}
    if LEASE in os.environ:
        return {"device_map": "balanced", "max_memory": free}
    usable = {at: int(USABLE_SHARE * nbytes) for at, nbytes in free.items()}
    return {"device_map": "sequential", "max_memory": usable}


def _refuse_left_out(model: Any, folder: Path) -> None:
    """Raises UserError where layers lie on no GPU: moved there for each pass, they would take days."""
    places = getattr(model, "hf_device_map", {})
    left = [name for name, place in places.items() if place in ("cpu", "disk") and len(places) > 1]
    if left:
        raise UserError(
            f"{len(left)} of {len(places)} parts of the model do not fit the memory that is free on the GPUs",
            file=folder,
            value=left[0],
            fix="End what else uses them, or lend larger ones or more (host.gpus in ft_dagster.yaml)",
        )


def load_dequantized(folder: Path, quantization: Quantization, *, device: str = "cpu") -> PreTrainedModel:
    """Load a plain float32 model with the weights that the base stands for once it is quantized, on a CPU."""
    import torch
    from peft.utils.integrations import dequantize_module_weight
    from transformers.pytorch_utils import Conv1D

    model = load_base(folder, dtype="float32", device=device)
    quantized = load_base(folder, dtype="float32", quantization=quantization)
    for name, module in quantized.named_modules():
        if hasattr(module, "weight") and module.weight.dtype in (torch.uint8, torch.int8):
            plain, values = model.get_submodule(name), dequantize_module_weight(module).data.float()
            values = values.to(plain.weight.device)
            plain.weight.data = values.T.contiguous() if isinstance(plain, Conv1D) else values
    let_go(quantized)
    return model


def load_tuned(base: Path, payload: Path, *, dtype: str, device: str = "cpu", widen: bool = False) -> Any:
    """Load the trained model, whichever kind `payload` is: by itself, or on its base as it was trained on.

    `widen`: an adapter computes in float32 whatever `dtype` is. On a CPU a 4-bit base is unpacked where there
    is room (see `unpacked`). Raises UserError.
    """
    if kind_of(payload) == "model":
        return load_base(payload, dtype=dtype, device=device)
    quantization = quantization_of(payload)
    model = load_base(base, dtype=dtype, device=device, quantization=quantization)
    tuned = put_adapter(model, payload, widen=widen)
    if quantization == "nf4" and device == "cpu":
        from ft_dagster.evaluation.models.memory_budget import spare_memory
        from ft_dagster.evaluation.models.unpacked import plain_lora, unpack

        if unpack(tuned, spare_memory()):
            plain_lora(tuned)
    return tuned


def put_adapter(model: Any, adapter: Path, *, widen: bool = False) -> Any:
    """Return `model` with the adapter on it (a PeftModel), apart from it and unmerged. Raises UserError."""
    from peft import PeftModel

    if not (adapter / ADAPTER_CONFIG).is_file() or not (adapter / ADAPTER_WEIGHTS).is_file():
        raise UserError(
            f"not an adapter: {ADAPTER_CONFIG} or {ADAPTER_WEIGHTS} is missing",
            file=adapter,
            fix="Name the payload folder of a fine_tuned_model",
        )
    try:
        adapted = PeftModel.from_pretrained(
            model, str(adapter), is_trainable=False, autocast_adapter_dtype=widen
        )
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the adapter does not fit the base: {_said(error)}",
            file=adapter,
            fix="Use the base that the adapter was trained on",
        ) from None
    if len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        _follow_token_rows(adapted)
    return adapted.eval()


def _follow_token_rows(adapted: Any) -> None:
    """Make trained token rows follow their layer on a model of several devices: PEFT multiplies by them past
    accelerate's hooks.
    """
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module
    from peft.utils.other import TrainableTokensWrapper

    for layer in adapted.modules():
        if isinstance(layer, TrainableTokensWrapper):
            add_hook_to_module(layer, AlignDevicesHook(layer.original_module.weight.device))


def tokenizer_folder(base: Path, payload: Path) -> Path:
    """Return where the tokenizer that was trained with is: beside the trained weights, else beside the
    base.
    """
    return payload if (payload / "tokenizer_config.json").exists() else base


def trained_tokenizer(base: Path, payload: Path) -> Any:
    """Load the tokenizer that was trained with, which ends an answer where the base does. Raises
    UserError.
    """
    return load_tokenizer(tokenizer_folder(base, payload), base=base)


def inner_model(model: Any) -> Any:
    """Return the transformers model inside a PeftModel; any other model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def virtual_tokens(model: Any) -> int:
    """Count the positions that a learned prompt or prefix takes before the given tokens."""
    config = getattr(model, "active_peft_config", None)
    return int(config.num_virtual_tokens) if config is not None and config.is_prompt_learning else 0


def let_go(model: Any) -> None:
    """Free one model before the next is loaded: two would not fit where one does."""
    import torch

    for part in model.modules():
        part._parameters.clear()
        part._buffers.clear()
        vars(part).pop("packed", None)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def generate(model: Any, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Any:
    """Call `model.generate` for rows padded on the left; what it returns starts with `virtual_tokens(model)`
    positions more. Each row is answered as it is alone.

    PEFT's own generation of a learned prompt puts the padding between prompt and text, and counts the
    positions after a learned prefix from zero, where the forward pass counts on from the prefix.
    """
    if not virtual_tokens(model):
        return model.generate(input_ids=input_ids, attention_mask=attention_mask, **options)
    from peft import PeftType

    if model.active_peft_config.peft_type == PeftType.PREFIX_TUNING:
        given = _after_prefix(model, input_ids, attention_mask)
    else:
        given = _after_prompt(model, input_ids, attention_mask)
    return inner_model(model).generate(**given, **options)


def _after_prefix(model: Any, input_ids: Tensor, attention_mask: Tensor) -> dict[str, object]:
    """Return the inputs after a learned prefix: the prefix stands in the cache; before the text stand as many
    ids, which are never read.
    """
    import torch

    rows, taken = len(input_ids), virtual_tokens(model)
    return {
        "input_ids": torch.cat([input_ids.new_zeros(rows, taken), input_ids], dim=1),
        "attention_mask": torch.cat([attention_mask.new_ones(rows, taken), attention_mask], dim=1),
        "past_key_values": model.get_prompt(rows),
    }


def _after_prompt(model: Any, input_ids: Tensor, attention_mask: Tensor) -> dict[str, object]:
    """Return embeddings of padding, prompt and text, in this order; the ids beside them are never read."""
    import torch

    rows, taken = len(input_ids), virtual_tokens(model)
    words = model.word_embeddings(input_ids)
    prompt = model.get_prompt(batch_size=rows).to(words.dtype)
    embeddings, mask = [], []
    for row, count in enumerate((attention_mask == 0).sum(dim=1).tolist()):
        embeddings.append(torch.cat([words[row, :count], prompt[row], words[row, count:]]))
        seen = attention_mask.new_ones(taken)
        mask.append(torch.cat([attention_mask[row, :count], seen, attention_mask[row, count:]]))
    return {
        "input_ids": torch.cat([input_ids.new_zeros(rows, taken), input_ids], dim=1),
        "inputs_embeds": torch.stack(embeddings),
        "attention_mask": torch.stack(mask),
    }


def _hush_bitsandbytes() -> None:
    """Silence bitsandbytes, which says at each layer that int8 casts to float16: that is what int8 is."""
    import logging

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:")
