"""Tiny configurations of transformers' own classes: of experts, of layers with a state, and plain ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny_model import tiny_tokenizer

COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
FEW: dict[str, Any] = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
LATENT: dict[str, Any] = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 32, "first_k_dense_replace": 1,
}  # fmt: skip
LINEAR: dict[str, Any] = {
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
MAMBA: dict[str, Any] = {
    "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16, "mamba_expand": 2,
    "mamba_chunk_size": 16,
}  # fmt: skip
EXPERTS: dict[str, dict[str, Any]] = {
    "qwen2_moe": {**FEW, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    "qwen3_moe": {**FEW, "moe_intermediate_size": 32},
    "mixtral": FEW,
    "olmoe": FEW,
    "granitemoe": FEW,
    "phimoe": FEW,
    "gpt_oss": {**FEW, "layer_types": ["sliding_attention", "full_attention"]},
    "llama4_text": {
        **FEW,
        "num_experts_per_tok": 1,
        "intermediate_size_mlp": 96,
        "interleave_moe_layer_step": 1,
    },
    "deepseek_v3": {**LATENT, "head_dim": 8, "num_key_value_heads": 4},
    "glm4_moe": {**LATENT, "num_experts_per_tok": 2},
    "ernie4_5_moe": {**FEW, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32},
}
STATEFUL: dict[str, dict[str, Any]] = {
    "qwen3_next": {**FEW, **LINEAR, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    "qwen3_5_text": LINEAR,
    "qwen3_5_moe_text": {
        **FEW, **LINEAR, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32
    },
    "granitemoehybrid": {
        **FEW, **MAMBA, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 32
    },
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "jamba": {
        **FEW, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "mamba_d_state": 8,
        "mamba_dt_rank": 8, "use_mamba_kernels": False,
    },
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 128},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "recurrent_gemma": {"lru_width": 64, "num_hidden_layers": 3},
    "zamba": {
        "num_hidden_layers": 4, "mamba_dt_rank": 8, "n_mamba_heads": 2, "mamba_d_state": 8,
        "attention_hidden_size": 128, "attention_head_dim": 32, "num_key_value_heads": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "use_mamba_kernels": False,
    },
}  # fmt: skip
PLAIN: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma2": {"layer_types": ["sliding_attention", "full_attention"]},
    "granite_swa": {"layer_types": ["sliding_attention", "full_attention"]},
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"]},
}
CLASSES = EXPERTS | STATEFUL | PLAIN


def tiny_config(kind: str, **changes: Any) -> Any:
    """The configuration of a model type, tiny."""
    from transformers import CONFIG_MAPPING

    tokenizer = tiny_tokenizer()
    tokens = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return CONFIG_MAPPING[kind](**{**COMMON, **tokens, **CLASSES[kind], **changes})


def make_tiny(kind: str, folder: Path, **changes: Any) -> Path:
    """A model folder of a model type, as `save_pretrained` writes it, with a tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tiny_tokenizer().save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(tiny_config(kind, **changes)).save_pretrained(folder)
    return folder
