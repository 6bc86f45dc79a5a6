"""Counts what methods need to know of a base model."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple


class Tensors(NamedTuple):
    """Lists the weights of a base of experts that an adapter updates as tensors and not as layers, since PEFT
    takes them for no linear layer of their own.

    `shapes`: of each, by the end of its name, as `experts.gate_up_proj`: [experts, a, b], or [a, b].
    `gates`: routers and gates of shared experts, among `shapes` or the linear layers: those that decide which
    expert works.
    """

    shapes: dict[str, list[list[int]]]
    gates: list[str]

    @property
    def experts(self) -> list[str]:
        """Return the names of those that hold all experts of a layer."""
        return sorted(name for name, found in self.shapes.items() if any(len(shape) > 2 for shape in found))

    def layers(self, linear: Collection[str]) -> dict[str, list[str]]:
        """Return the linear layers that are updated as tensors, by last name: how each is called here."""
        found: dict[str, list[str]] = {}
        for name in self.shapes:
            layer = name.removesuffix(".weight").rsplit(".", 1)[-1]
            if name.endswith(".weight") and layer in linear:
                found.setdefault(layer, []).append(name)
        return found


NO_TENSORS = Tensors({}, [])


@dataclass(frozen=True)
class BaseFacts:
    """Counts a base model from its headers; bytes are of tensors alone."""

    parameters: int  # tied weights once
    base_bytes: int  # as stored
    linear_shapes: dict[str, list[list[int]]]  # see `layers`
    hidden_size: int
    layers: int
    key_value_size: int  # key heads x head size
    tied_embeddings: bool
    tensors: Tensors = field(default=NO_TENSORS, kw_only=True)

    @property
    def linear_parameters(self) -> int:
        """Count the weights of the linear layers, without embeddings and head: what quantization shrinks."""
        return sum(math.prod(shape) for shapes in self.linear_shapes.values() for shape in shapes)

    @property
    def expert_parameters(self) -> int:
        """Count the weights of the experts that lie in one tensor a layer: nothing quantizes those."""
        found = (self.tensors.shapes[name] for name in self.tensors.experts)
        return sum(math.prod(shape) for shapes in found for shape in shapes)

    @property
    def largest_layer(self) -> int:
        """Count the weights of the largest linear layer."""
        return max(
            (math.prod(shape) for shapes in self.linear_shapes.values() for shape in shapes), default=0
        )
