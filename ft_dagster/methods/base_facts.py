"""What is counted of a base model, and by which methods differ."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class BaseFacts:
    """Counted from the headers of a base model; bytes are of tensors alone."""

    parameters: int  # tied weights once
    base_bytes: int  # as stored
    linear_shapes: dict[str, list[list[int]]]  # see `layers`
    hidden_size: int
    layers: int
    key_value_size: int  # key heads x head size
    tied_embeddings: bool

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers, without embeddings and head: what quantization shrinks."""
        return sum(math.prod(shape) for shapes in self.linear_shapes.values() for shape in shapes)

    @property
    def largest_layer(self) -> int:
        """Weights of the largest linear layer."""
        return max(
            (math.prod(shape) for shapes in self.linear_shapes.values() for shape in shapes), default=0
        )
