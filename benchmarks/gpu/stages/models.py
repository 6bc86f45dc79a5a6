"""Models made on the spot: a tiny one with a tokenizer, and random weights in the shapes of larger ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

LLAMA = {"max_position_embeddings": 4096, "rope_theta": 10000.0, "tie_word_embeddings": True}
TINY = {
    **LLAMA, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
# Of published architectures (Llama 3.2 1B, Llama 3.1 8B), and what stands for them on a CPU.
SHAPES: dict[str, dict[str, Any]] = {
    "1b": {
        **LLAMA, "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    "8b": {
        **LLAMA, "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
    "toy-a": {
        **TINY, "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 4,
    },
    "toy-b": {
        **TINY, "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 8,
        "tie_word_embeddings": False,
    },
}  # fmt: skip


def parameters(shape: str) -> int:
    """Weights of SHAPES[shape], but for norms."""
    size = SHAPES[shape]
    hidden, heads = size["hidden_size"], size["num_attention_heads"]
    keys = hidden // heads * size["num_key_value_heads"]
    layer = 2 * hidden**2 + 2 * hidden * keys + 3 * hidden * size["intermediate_size"]
    tables = 1 if size["tie_word_embeddings"] else 2
    return size["num_hidden_layers"] * layer + tables * size["vocab_size"] * hidden


def make_tiny(folder: Path) -> None:
    """A Llama of 0.1M fp32 weights, the same every time, with a byte-level tokenizer of 500 pieces."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.tiny_model import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = LlamaConfig(vocab_size=len(tokenizer), **TINY, **special)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)


def make_random(folder: Path, shape: str, tokenizer: Path, device: str) -> None:
    """Random bf16 weights of SHAPES[shape], with the tokenizer files of another model; whole or not at all.

    Drawn on `device`, where 8e9 of them take a second instead of a minute.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    config = LlamaConfig(**SHAPES[shape], bos_token_id=1, eos_token_id=2, pad_token_id=0)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(before)
    model.save_pretrained(partial, max_shard_size="2GB")
    for file in tokenizer.glob("*token*"):
        shutil.copyfile(file, partial / file.name)
    for file in tokenizer.glob("*.jinja"):
        shutil.copyfile(file, partial / file.name)
    partial.rename(folder)
