"""Reads the shapes of a base's layers, before anything is loaded."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ft_dagster.methods.base_facts import Tensors
from ft_dagster.model_files.weights import CONFIG
from ft_dagster.provenance.digest import sha256_file
from ft_dagster.provenance.findings import recalled, remembered
from ft_dagster.training.methods.experts import tensors_of

if TYPE_CHECKING:
    from torch import nn

HOW = 2  # raised where they are read otherwise
EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "wpe", "word_embeddings", "embed_in", "embed_out")


class Shapes(NamedTuple):
    """Holds the sizes of a base, and the shape of every linear layer, see `linear_shapes`."""

    dimensions: Dimensions
    linear: dict[str, list[list[int]]]
    tensors: Tensors


class Dimensions(NamedTuple):
    """Holds the sizes of a base that its configuration states."""

    hidden_size: int
    layers: int
    key_value_size: int
    tied_embeddings: bool


def shapes_of(base_folder: Path, cache: Path | None) -> Shapes:
    """Return what a base's configuration and its class say, read once for each content of config.json and
    version of the libraries.
    """

    def find() -> list[Any]:
        return [dimensions(base_folder), linear_shapes(base_folder), tensors(base_folder)]

    found, linear, beside = remembered(cache, _question(sha256_file(base_folder / CONFIG)), find)
    return Shapes(Dimensions(*found), linear, Tensors(*beside))


def known_tensors(config: str, cache: Path) -> Tensors | None:
    """Return the tensors of a base by the sha256 of its config.json, where this host read its shapes before;
    else None, as where the libraries are not installed.
    """
    try:
        found = recalled(cache, _question(config))
    except PackageNotFoundError:
        return None
    return None if found is None else Tensors(*found[2])


def _question(config: str) -> dict[str, object]:
    libraries = {library: version(library) for library in ("transformers", "torch", "peft")}
    return {"shapes": HOW, "config": config, **libraries}


def linear_shapes(base_folder: Path) -> dict[str, list[list[int]]]:
    """Return the shape of every linear layer by its last name, as the base's class has them: [out, in], but
    GPT-2's.

    A file may hold experts one by one that the class has in one tensor, which is no linear layer.
    """
    return _of_weights(str(base_folder), (base_folder / CONFIG).read_bytes())[0]


def tensors(base_folder: Path) -> Tensors:
    """Return the weights of a base that are updated as tensors, as its class has them."""
    return _of_weights(str(base_folder), (base_folder / CONFIG).read_bytes())[1]


@lru_cache(maxsize=16)
def _of_weights(folder: str, _config: bytes) -> tuple[dict[str, list[list[int]]], Tensors]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config)
    return linear_shapes_of(model), tensors_of(model)


def linear_shapes_of(model: nn.Module) -> dict[str, list[list[int]]]:
    """Return the linear shapes of a model that was built, if without memory."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    shapes: dict[str, list[list[int]]] = {}
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if isinstance(module, Linear | Conv1D) and last not in EMBEDDINGS:
            shapes.setdefault(last, []).append(list(module.weight.shape))
    return shapes


def dimensions(base_folder: Path) -> Dimensions:
    """Return what config.json says of the decoder, whatever its architecture calls it."""
    from transformers import AutoConfig

    return dimensions_of(
        AutoConfig.from_pretrained(base_folder, local_files_only=True, trust_remote_code=False)
    )


def dimensions_of(config: Any) -> Dimensions:
    """Return the dimensions of transformers' own configuration."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    keys = getattr(text, "num_key_value_heads", None) or heads
    return Dimensions(
        text.hidden_size, text.num_hidden_layers, keys * head_size, bool(text.tie_word_embeddings)
    )
