"""Trainable parameters, counted from the shapes of the base's layers before anything is loaded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ft_dagster.data.weights import CONFIG
from ft_dagster.errors import UserError
from ft_dagster.planning.facts import Facts
from ft_dagster.training.contract import FullSettings, LoraSettings, MethodSettings, PromptSettings

if TYPE_CHECKING:
    from torch import nn

EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "wpe", "word_embeddings", "embed_in", "embed_out")


class Dimensions(NamedTuple):
    hidden_size: int
    layers: int
    key_value_size: int
    tied_embeddings: bool


def linear_shapes(base_folder: Path) -> dict[str, list[list[int]]]:
    """The shape of every linear layer by its last name, as the base's class has them: [out, in], but GPT-2's.

    A file may hold experts one by one that the class has in one tensor, which is no linear layer.
    """
    file = base_folder / CONFIG
    return _linear_shapes(str(base_folder), file.read_bytes())


@lru_cache(maxsize=16)
def _linear_shapes(folder: str, _config: bytes) -> dict[str, list[list[int]]]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return linear_shapes_of(AutoModelForCausalLM.from_config(config))


def linear_shapes_of(model: nn.Module) -> dict[str, list[list[int]]]:
    """Of a model that was built, if without memory."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    shapes: dict[str, list[list[int]]] = {}
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if isinstance(module, Linear | Conv1D) and last not in EMBEDDINGS:
            shapes.setdefault(last, []).append(list(module.weight.shape))
    return shapes


def dimensions(base_folder: Path) -> Dimensions:
    """What config.json says of the decoder, whatever its architecture calls it."""
    from transformers import AutoConfig

    return dimensions_of(
        AutoConfig.from_pretrained(base_folder, local_files_only=True, trust_remote_code=False)
    )


def dimensions_of(config: Any) -> Dimensions:
    """Of transformers' own configuration."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    keys = getattr(text, "num_key_value_heads", None) or heads
    return Dimensions(
        text.hidden_size, text.num_hidden_layers, keys * head_size, bool(text.tie_word_embeddings)
    )


def trainable_parameters(method: MethodSettings, facts: Facts, new_tokens: int = 0) -> int:
    """What the optimizer moves under `method`; with LoRA the rows of `new_tokens` too."""
    if isinstance(method, FullSettings):
        return facts.parameters
    if isinstance(method, PromptSettings):
        prefix = method.name == "prefix_tuning"
        each = facts.layers * 2 * facts.key_value_size if prefix else facts.hidden_size
        return method.num_virtual_tokens * each
    rows = new_tokens * facts.hidden_size * (1 if facts.tied_embeddings else 2)
    adapter = adapter_parameters(facts.linear_shapes, method.rank, method.target_modules)
    return adapter + rows + (_magnitudes(method, facts) if method.use_dora else 0)


def _magnitudes(method: LoraSettings, facts: Facts) -> int:
    """DoRA trains the length of each output's weights besides."""
    targeted = _targeted(facts.linear_shapes, method.target_modules)
    return sum(shape[0] for name in targeted for shape in facts.linear_shapes[name])


def smallest_dimension(
    linear_shapes: dict[str, list[list[int]]], target_modules: str | list[str] | tuple[str, ...]
) -> int:
    """The largest rank that still saves anything. Raises UserError when a name matches no layer."""
    return narrowest_layer(linear_shapes, target_modules)[0]


def narrowest_layer(
    linear_shapes: dict[str, list[list[int]]], target_modules: str | list[str] | tuple[str, ...]
) -> tuple[int, str]:
    """The same, and the layer by which it is so."""
    names = _targeted(linear_shapes, target_modules)
    return min((min(shape), name) for name in names for shape in linear_shapes[name])


def adapter_parameters(
    linear_shapes: dict[str, list[list[int]]], rank: int, target_modules: str | list[str] | tuple[str, ...]
) -> int:
    """Sum of r * (in + out) over the targeted layers.

    `linear_shapes` maps a module's last name (`q_proj`) to the [out, in] shape of each such layer.
    Raises UserError when a name matches no layer, or the rank is above a layer's smaller dimension.
    """
    smallest, layer = narrowest_layer(linear_shapes, target_modules)
    if rank > smallest:
        raise UserError(
            f"above the smallest dimension of the targeted layers, {smallest} of {layer}",
            field="method.rank",
            value=rank,
            fix=f"Use at most {smallest}, or name method.target_modules without {layer}",
        )
    names = _targeted(linear_shapes, target_modules)
    return sum(rank * sum(shape) for name in names for shape in linear_shapes[name])


def _targeted(
    linear_shapes: dict[str, list[list[int]]], target_modules: str | list[str] | tuple[str, ...]
) -> list[str]:
    names = list(linear_shapes) if target_modules == "all-linear" else list(target_modules)
    for name in names:
        if name not in linear_shapes:
            raise UserError(
                "the base model has no such layer",
                field="method.target_modules",
                value=name,
                fix=f"It has: {', '.join(sorted(linear_shapes))}",
            )
    if not names:
        raise UserError(
            "the base model has no linear layers that LoRA can update",
            field="method.name",
            value="lora",
            fix="Use full",
        )
    return names
