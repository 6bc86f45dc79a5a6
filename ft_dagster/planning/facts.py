"""What a plan is made from, besides the declaration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BaseFacts:
    """Counted from the headers of a base model; bytes are of tensors alone."""

    parameters: int  # tied weights once
    base_bytes: int  # as stored
    linear_shapes: dict[str, list[list[int]]]  # see planning.shapes
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


@dataclass(frozen=True)
class Facts(BaseFacts):
    """Counted from the mixture, the base model's headers and the host."""

    examples: int  # training examples of the mixture, general ones among them
    tokens: int
    trained_tokens: int
    general_share: float  # of the tokens that data.general.share_of names, as it came out
    max_length: int
    device_kind: Literal["cpu", "cuda"]
    ranks: int  # processes that train together: GPUs, or shares of a CPU
    device_memory: int | None  # bytes of one device, None where unknown
    bf16: bool  # the hardware computes in bf16
    validation: int = 64  # examples to choose by
    longest: int | None = None  # example of the mixture, in tokens; None: as long as may be
    leak: str | None = None  # why packed examples of the base reach each other; None: they are kept apart
