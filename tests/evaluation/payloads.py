"""Trained weights of each kind, made with plain PEFT and transformers, and loaded the same way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ft_dagster.methods.method import Quantization
from ft_dagster.models.quantize import (
    quantization_config,
    quantization_of,
    settle_quantized,
    write_quantization,
)

KINDS = ("lora", "tokens", "nf4", "int8", "prompt", "prefix", "full")
PROMPTS = ["The whale rose slowly beside the ship and the men", "a permit", "Which documents must I bring"]


def make_payload(kind: str, base: Path, folder: Path, digest: str = "0" * 64) -> Path:
    """What a training by this method would leave: random weights that change every logit."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if kind == "full":
            for weights in model.parameters():
                weights.data += 0.02 * torch.randn_like(weights)
            model = model.to(torch.bfloat16)
        else:
            model = _adapted(kind, model)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    if kind != "full":
        file = folder / "adapter_config.json"
        config = json.loads(file.read_text("utf-8"))
        file.write_text(json.dumps({**config, "base_model_name_or_path": f"sha256:{digest}"}), "utf-8")
    quantizations: dict[str, Quantization] = {"nf4": "nf4", "int8": "int8"}
    if kind in quantizations:
        write_quantization(folder, quantizations[kind])
    return folder


def load_plainly(kind: str, base: Path, payload: Path) -> Any:
    """The model as a user of transformers and PEFT loads it, in float32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if kind == "full":
        return AutoModelForCausalLM.from_pretrained(payload, dtype=torch.float32).eval()
    options: dict[str, Any] = {}
    quantization = quantization_of(payload)
    if quantization is not None:
        options["quantization_config"] = quantization_config(quantization, torch.float32)
        options["device_map"] = {"": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **options)
    settle_quantized(model)
    return PeftModel.from_pretrained(model, payload).eval()


def write_greedily(model: Any, ids: list[int], count: int, end: int) -> list[int]:
    """`count` tokens, each from a forward pass over all before it; an end token is the last."""
    import torch

    written: list[int] = []
    while len(written) < count and end not in written:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids + written]), use_cache=False).logits
        written.append(int(logits[0, -1].argmax()))
    return written


def _adapted(kind: str, model: Any) -> Any:
    from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

    task: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    lora = {**task, "r": 4, "target_modules": "all-linear"}
    configs = {
        "prompt": lambda: PromptTuningConfig(**task, num_virtual_tokens=20),
        "prefix": lambda: PrefixTuningConfig(**task, num_virtual_tokens=20),
        "tokens": lambda: LoraConfig(**lora, trainable_token_indices=[7, 11]),
    }
    adapted = get_peft_model(model, configs.get(kind, lambda: LoraConfig(**lora))())
    for name, weights in adapted.named_parameters():
        if "lora_B" in name:
            weights.data.normal_(0, 0.1)
        elif "trainable_tokens_delta" in name:
            weights.data.normal_(0, 0.1).add_(0.05)
        elif "prompt_encoder" in name:
            weights.data.normal_(0, 5.0)
    return adapted
