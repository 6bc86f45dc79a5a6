"""Adapters of the tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def make_adapter(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """An adapter of the tiny model: untrained (B = 0), or with weights that change every logit."""

    def make(trained: bool) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
        lora = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        if trained:
            with torch.random.fork_rng():
                torch.manual_seed(1)
                for name, weights in lora.named_parameters():
                    if "lora_B" in name:
                        weights.data.normal_(0, 0.3)
        folder = tmp_path_factory.mktemp("adapter")
        lora.save_pretrained(folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = "sha256:" + "0" * 64
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder

    return make


@pytest.fixture(scope="session")
def untrained_adapter(make_adapter: Callable[[bool], Path]) -> Path:
    return make_adapter(False)


@pytest.fixture(scope="session")
def trained_adapter(make_adapter: Callable[[bool], Path]) -> Path:
    return make_adapter(True)


@pytest.fixture(scope="session", params=["template", "declared"])
def base_of_two_ends(
    request: pytest.FixtureRequest, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny model with <|endoftext|> for eos: its template ends a turn with another token, as many do, or
    its generation_config.json alone names that one.
    """
    from transformers import AutoTokenizer

    folder = shutil.copytree(tiny_model_folder, tmp_path_factory.mktemp("two_ends") / "base")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder, eos_token="<|endoftext|>")
    if request.param == "declared":
        tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "")
    else:
        (folder / "generation_config.json").unlink()
    tokenizer.save_pretrained(folder)
    return folder
