"""Parameters of an adapter, counted from the shapes of the base's linear layers."""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from pathlib import Path

from ft_dagster.errors import UserError

EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "wpe", "word_embeddings", "embed_in", "embed_out")


def linear_shapes(base_folder: Path) -> dict[str, list[list[int]]]:
    """[out, in] of every linear layer by its last name, read from the safetensors headers alone."""
    shapes: dict[str, list[list[int]]] = defaultdict(list)
    for file in sorted(base_folder.glob("*.safetensors")):
        for name, tensor in _header(file).items():
            module = name.removesuffix(".weight").rsplit(".", 1)[-1]
            if name.endswith(".weight") and len(tensor["shape"]) == 2 and module not in EMBEDDINGS:
                shapes[module].append(tensor["shape"])
    return dict(shapes)


def _header(file: Path) -> dict[str, dict[str, list[int]]]:
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header: dict[str, dict[str, list[int]]] = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return header


def adapter_parameters(
    linear_shapes: dict[str, list[list[int]]], rank: int, target_modules: str | list[str]
) -> int:
    """Sum of r * (in + out) over the targeted layers.

    `linear_shapes` maps a module's last name (`q_proj`) to the [out, in] shape of each such layer.
    Raises UserError when a name matches no layer.
    """
    names = list(linear_shapes) if target_modules == "all-linear" else list(target_modules)
    for name in names:
        if name not in linear_shapes:
            raise UserError(
                "the base model has no such layer",
                field="method.target_modules",
                value=name,
                fix=f"It has: {', '.join(sorted(linear_shapes))}",
            )
    smallest = min(min(shape) for name in names for shape in linear_shapes[name])
    if rank > smallest:
        raise UserError(
            f"above the smallest dimension of the targeted layers, {smallest}",
            field="method.rank",
            value=rank,
            fix=f"Use at most {smallest}",
        )
    return sum(rank * sum(shape) for name in names for shape in linear_shapes[name])
