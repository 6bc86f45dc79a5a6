"""Computes causal attention over examples on a CPU: blocks of queries, each against the keys up to its end,
and against those of a beginning that its example shares with others.

torch's own kernel reaches a sixth of the rate of products there in bf16, in its backward pass most of all.
Here both passes are products and one softmax a block; scores are rounded to the type of the query, as eager
attention rounds them, and made again in the backward pass, so that nothing of an example's squared length is
kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ft_dagster.evaluation.models.attention import QUERIES, causal_weights, later

Block = tuple[int, int, int, int, int]  # keys before: first, end; own: first key, first query, end of both


def blocks_of(
    lengths: Sequence[Sequence[int]], width: int, after: Sequence[Sequence[int]] | None = None
) -> list[Block]:
    """Return the blocks of the parts of rows of `width`, laid end to end; none of padding. `after`: see
    `attention.attention`.
    """
    found: list[Block] = []
    for number, row in enumerate(lengths):
        first, spans = number * width, list[tuple[int, int]]()
        for place, length in enumerate(row):
            end, begins = first + length, -1 if after is None else after[number][place]
            before = spans[begins] if begins >= 0 else (first, first)
            found += [(*before, first, at, min(at + QUERIES, end)) for at in range(first, end, QUERIES)]
            spans.append((first, end))
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
            for block in blocks:
                _, _, _, start, end = block
                mine = _grouped(query, key, start, end)
                weights = causal_weights(
                    mine, _seen(key, block), after[: end - start, : end - start], scaling
                )
                found = torch.bmm(weights, _seen(value, block))
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
        for block in ctx.blocks:
            begins, stop, first, start, end = block
            mine, keys = _grouped(query, key, start, end), _seen(key, block)
            weights = causal_weights(mine, keys, after[: end - start, : end - start], ctx.scaling)
            of_out = _grouped(grad, key, start, end)
            of_values = torch.bmm(weights.mT, of_out)
            of_weights = torch.bmm(of_out, _seen(value, block).mT)
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            of_keys, before = torch.bmm(of_scores.mT, mine), stop - begins
            for whole, part in ((of_key, of_keys), (of_value, of_values)):
                whole[:, first:end] += part[:, before:]
                if before:
                    whole[:, begins:stop] += part[:, :before]
            of_query[:, start:end] = torch.bmm(of_scores, keys).view(query.shape[0], end - start, -1)
        of_query.mul_(ctx.scaling)
        return of_query, of_key.mul_(ctx.scaling).to(key.dtype), of_value.to(value.dtype), None, None


def _seen(x: torch.Tensor, block: Block) -> torch.Tensor:
    """Return what a block attends to, of [heads, positions, size]: what its part goes on from, then its own
    part up to its end.
    """
    begins, stop, first, _, end = block
    own = x[:, first:end]
    return own if begins == stop else torch.cat([x[:, begins:stop], own], 1)


def _grouped(x: torch.Tensor, key: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """Return those positions of [heads, positions, size], the heads that share a key behind one another."""
    return x[:, start:end].reshape(key.shape[0], -1, x.shape[-1])
