"""Computes attention on a CPU in bf16: products of whole batches, a block of queries at a time.

torch's own kernel there takes about twice as long for rows of some hundred tokens, and five times as long
for the one query of each row while answers are written. An attention of transformers' AttentionInterface
under a name of its own, with the masks that `sdpa` gets; what it is not made for it leaves to `sdpa`.
Scores are rounded to bf16, as eager attention rounds them, after what all keys of a head have in common is
taken from them: a softmax does not see it, and rounding would (biases of Qwen2's keys). Imported only where
torch is.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "ft_dagster_blocks"
QUERIES = 128  # of a block: its scores stay in the cache
BESIDE = ("softcap", "position_bias", "s_aux")  # of some architectures: more than a softmax of scores
# Architectures with plain causal attention in every layer, each held against transformers' own by a test.
PLAIN = frozenset(
    {
        "gemma", "glm", "granite", "llama", "mistral", "mixtral", "olmo", "olmo2", "phi", "phi3", "qwen2",
        "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "starcoder2",
    }
)  # fmt: skip


def attend_in_blocks(model: Any) -> None:
    """Let a transformers model attend so, where it attends by `sdpa` in bf16 on a CPU.

    Only architectures that are known: some do otherwise themselves by the name of their attention.
    """
    here = model.device.type == "cpu" and model.dtype == torch.bfloat16
    known = model.config.get_text_config().model_type in PLAIN
    if here and known and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention from [rows, heads, positions, size] each, key and value of fewer heads where some
    share; return [rows, positions, heads, size]. `attention_mask`: added to the scores, or what of the keys
    is seen; None: what comes before, of one query all.
    """
    count, said = query.shape[2], options.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if said is None else said)
    known = attention_mask is not None or count == 1 or (causal and count == key.shape[2])
    beside = any(options.get(name) is not None for name in BESIDE)
    if dropout or beside or not known:
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return found
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if count > 1:
        key = key - key.mean(2, keepdim=True)
    elif _has_biased_keys(module):  # of one query a mean would take as long as all else
        key = key - key[:, :, -1:]
    else:
        key = key.contiguous()  # else torch copies it turned, which takes three times as long
    return _in_blocks(query, key, value, attention_mask, scale), None


def _has_biased_keys(module: Any) -> bool:
    """Say whether the module's keys have a bias; False only where that is known."""
    return getattr(getattr(module, "k_proj", None), "bias", True) is not None


def _in_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    rows, heads, count, size = query.shape
    flat_key, flat_value = (x.reshape(-1, *x.shape[2:]) for x in (key, value))
    out, causal = query.new_empty(rows, count, heads, value.shape[-1]), mask is None and count > 1
    after = later(query) if causal else query
    for start in range(0, count, QUERIES):
        end = min(start + QUERIES, count)
        seen = end if causal else key.shape[2]
        mine, keys = query[:, :, start:end].reshape(len(flat_key), -1, size), flat_key[:, :seen]
        if causal:
            shares = causal_weights(mine, keys, after[: end - start, : end - start], scaling)
        else:
            scores = products(mine, keys, scaling).view(rows, heads, end - start, seen)
            if mask is not None:
                _hide(scores, mask[:, :, start:end, :seen])
            shares = torch.softmax(scores, -1).view(*mine.shape[:2], seen)
        found = torch.bmm(shares, flat_value[:, :seen])
        out[:, start:end] = found.view(rows, heads, end - start, -1).transpose(1, 2)
    return out


def _hide(scores: torch.Tensor, mask: torch.Tensor) -> None:
    """Hide masked keys in place; a query that may see nothing, of padding, sees all alike: a number, which no
    other query meets.
    """
    if mask.dtype == torch.bool:
        scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    else:
        scores.add_(mask)


def later(like: torch.Tensor) -> torch.Tensor:
    """Return -inf where a key comes after the query, else 0: [queries, keys]; a corner serves a smaller
    block.
    """
    return torch.full((QUERIES, QUERIES), float("-inf"), dtype=like.dtype, device=like.device).triu_(1)


def causal_weights(
    mine: torch.Tensor, keys: torch.Tensor, later: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Return the weights [shared heads, queries of all heads that share, keys]; the last keys are the block's
    own.
    """
    scores = products(mine, keys, scaling)
    count = later.shape[0]
    scores.view(keys.shape[0], -1, count, keys.shape[1])[..., -count:].add_(later)
    return torch.softmax(scores, -1)


def products(mine: torch.Tensor, keys: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return the scores before the softmax, with nothing masked."""
    return torch.baddbmm(mine.new_empty(1, 1, 1), mine, keys.mT, beta=0, alpha=scaling)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
