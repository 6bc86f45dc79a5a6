"""Counts what methods need to know of a base model."""

from __future__ import annotations

import math
from dataclasses import dataclass


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

    @property
    def linear_parameters(self) -> int:
        """Count the weights of the linear layers, without embeddings and head: what quantization shrinks."""
        return sum(math.prod(shape) for shapes in self.linear_shapes.values() for shape in shapes)

    @property
    def largest_layer(self) -> int:
        """Count the weights of the largest linear layer."""
        return max(
            (math.prod(shape) for shapes in self.linear_shapes.values() for shape in shapes), default=0
        )
