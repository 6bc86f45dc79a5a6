"""Computes causal attention over examples on a CPU in bf16: blocks of queries, each against the keys up to
its end.

torch's own kernel there reaches a sixth of the rate of products, in its backward pass most of all. Here both
passes are products and one softmax a block; scores are rounded to bf16, as eager attention rounds them, and
made again in the backward pass, so that nothing of an example's squared length is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ft_dagster.evaluation.models.attention import QUERIES, causal_weights, later

Block = tuple[int, int, int]  # first key, first query, end of both


def blocks_of(lengths: Sequence[Sequence[int]], width: int) -> list[Block]:
    """Return the blocks of the examples of rows of `width`, laid end to end; none of padding."""
    found = []
    for number, row in enumerate(lengths):
        first = number * width
        for length in row:
            end = first + length
            found += [(first, at, min(at + QUERIES, end)) for at in range(first, end, QUERIES)]
            first = end
    return found


class BlockAttention(torch.autograd.Function):
    """Attends with query [heads, positions, size], key and value [shared heads, positions, size]: [positions,
    heads, size], 0 where no block is.
    """

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        blocks: Sequence[Block],
        scaling: float,
    ) -> torch.Tensor:
        heads, positions, size = query.shape
        out, after = query.new_zeros(positions, heads, size), later(query)
        with torch.autocast("cpu", enabled=False):
            for first, start, end in blocks:
                mine = _grouped(query, key, start, end)
                weights = causal_weights(
                    mine, key[:, first:end], after[: end - start, : end - start], scaling
                )
                found = torch.bmm(weights, value[:, first:end])
                out[start:end] = found.view(heads, end - start, size).transpose(0, 1)
        ctx.save_for_backward(query, key, value)
        ctx.blocks, ctx.scaling = blocks, scaling
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, key, value = ctx.saved_tensors
        grad = grads[0].transpose(0, 1)
        of_query, after = torch.zeros_like(query), later(query)
        of_key, of_value = (torch.zeros_like(x, dtype=torch.float32) for x in (key, value))  # sums of blocks
        for first, start, end in ctx.blocks:
            mine, keys = _grouped(query, key, start, end), key[:, first:end]
            weights = causal_weights(mine, keys, after[: end - start, : end - start], ctx.scaling)
            of_out = _grouped(grad, key, start, end)
            of_value[:, first:end] += torch.bmm(weights.mT, of_out)
            of_weights = torch.bmm(of_out, value[:, first:end].mT)
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_key[:, first:end] += torch.bmm(of_scores.mT, mine)
            of_query[:, start:end] = torch.bmm(of_scores, keys).view(query.shape[0], end - start, -1)
        of_query.mul_(ctx.scaling)
        return of_query, of_key.mul_(ctx.scaling).to(key.dtype), of_value.to(value.dtype), None, None


def _grouped(x: torch.Tensor, key: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """Return those positions of [heads, positions, size], the heads that share a key behind one another."""
    return x[:, start:end].reshape(key.shape[0], -1, x.shape[-1])
