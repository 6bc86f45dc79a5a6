"""Stage 7, bounded: packed examples of tiny hybrids, told to the kernels of their layers, stay apart.

Not yet run on a GPU. The packs lack the kernels: without them every case is skipped.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from stages.common import Case, Context, Skipped, Wrong

SIZES: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 512,
}  # fmt: skip
LINEAR: dict[str, Any] = {
    "linear_key_head_dim": 64, "linear_value_head_dim": 64, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
FEW: dict[str, Any] = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
MAMBA: dict[str, Any] = {
    "mamba_n_heads": 8, "mamba_d_head": 64, "mamba_n_groups": 1, "mamba_d_state": 64, "mamba_expand": 2,
}  # fmt: skip
HYBRIDS: dict[str, dict[str, Any]] = {
    "qwen3_next": {**FEW, **LINEAR, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64},
    "qwen3_5_text": LINEAR,
    "granitemoehybrid": {**FEW, **MAMBA, "layer_types": ["mamba", "attention"]},
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 512},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
}


MOST = 0.03  # of the spread of the second example's logits in bf16, by which a training refuses to pack


def cases(context: Context) -> list[Case]:
    return [Case(f"{kind} told", partial(told, context, kind)) for kind in HYBRIDS]


def told(context: Context, kind: str) -> dict[str, Any]:
    """By how much the logits of the second example move with another first one, where kernels are told."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from ft_dagster.training.batches.apart import logits_of_second, side_by_side
    from ft_dagster.training.batches.bounds import call_layers, reads_bounds, state_kernels

    config = CONFIG_MAPPING[kind](**{**SIZES, **HYBRIDS[kind]})
    if not context.gpu:
        raise Skipped("the kernels run on a GPU alone")
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
    if not reads_bounds(config):
        deaf = [each.name for each in state_kernels(config) if not (each.installed and each.reads_bounds)]
        raise Skipped(f"not installed, or too old to read where an example ends: {', '.join(deaf)}")
    call_layers(config)
    model = model.to(context.device).train()
    batch = side_by_side(*torch.randint(3, 500, (3, 64)))
    there = {name: x.to(context.device) if hasattr(x, "to") else x for name, x in batch.items()}
    with torch.no_grad():
        one, other = logits_of_second(model, there)
    moved = float((one - other).square().mean().sqrt() / one.std())
    said = f"the second example's logits moved by {moved:.2%} of their spread"
    if not moved <= MOST:
        raise Wrong(said, {"moved": moved})
    return {"moved": moved, "said": said}
