"""Computes the loss that objectives share: cross-entropy of the next token, where a token carries a label."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Loss: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
UNLABELLED = -100  # torch's own default


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return nats, summed over the labels; logits [positions, vocabulary] in fp32, labels [positions]."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum")
