"""`python -m stages.bounded DEVICE`: packed examples of tiny hybrids, told to their kernels, on a device.

Prints for each class which kernels are installed, and by how much the logits of the second example moved with
another first one, of their spread. Not yet run on a GPU.
"""

from __future__ import annotations

import json
import sys
from typing import Any

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


def main(device: str) -> int:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from ft_dagster.training.batches.apart import logits_of_second, side_by_side
    from ft_dagster.training.batches.bounds import call_layers, reads_bounds, state_kernels

    for kind, sizes in HYBRIDS.items():
        config = CONFIG_MAPPING[kind](**{**SIZES, **sizes})
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
        call_layers(config)
        net = model.to(device).train()
        batch = side_by_side(*torch.randint(3, 500, (3, 64)))
        there = {name: x.to(device) if hasattr(x, "to") else x for name, x in batch.items()}
        with torch.no_grad():
            one, other = logits_of_second(net, there)
        moved = float((one - other).square().mean().sqrt() / one.std())
        kernels = {each.name: each.installed for each in state_kernels(config)}
        print(json.dumps({"class": kind, "told": reads_bounds(config), "moved": moved, "kernels": kernels}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
