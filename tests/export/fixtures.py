"""Fixtures of an adapter on the tiny model, built with PEFT itself, and of the request to export it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.export.exports import (
    MakeAdapter,
    MakeRequest,
    request,
    save_adapter,
)


@pytest.fixture(scope="session")
def bf16_base(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model stored in bfloat16, as most bases are."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("bf16") / "tiny-llama"
    AutoModelForCausalLM.from_pretrained(tiny_model_folder).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(folder)
    return folder


@pytest.fixture
def make_adapter(tmp_path: Path, tiny_model_folder: Path) -> MakeAdapter:
    """Build a LoRA adapter with random weights: `make_adapter(scale=0.05, r=4, modules_to_save=[...])`."""

    def make(
        base: Path = tiny_model_folder, *, scale: float = 0.05, name: str = "adapter", **settings: Any
    ) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.manual_seed(1)
        config = LoraConfig(
            **{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
        )
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter).data.mul_(scale)
        return save_adapter(model, AutoTokenizer.from_pretrained(base), tmp_path / name)

    return make


@pytest.fixture
def make_request(tmp_path: Path, tiny_model_folder: Path, tiny_tokenizer: Any) -> MakeRequest:
    """The content of run.json for an adapter: `make_request(adapter, format="merged")`."""

    def make(
        adapter: Path, *, format: str = "adapter", base: Path = tiny_model_folder, output: str = "output"
    ) -> dict[str, Any]:
        return request(adapter, format, base, tiny_tokenizer, tmp_path / output)

    return make
