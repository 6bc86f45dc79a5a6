"""Full fine-tuning: what is saved is whole, plain and in bf16; interrupted equals uninterrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ft_dagster.training.__main__ import main
from tests.training.methods.taught import resume_earlier
from tests.training.runs import Runs, result_of, write_mixture

pytestmark = pytest.mark.slow

FULL = {"name": "full"}
TRAINING = {"learning_rate": 1e-3, "num_train_epochs": 4.0, "evaluations": 4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("full")
    run_folder = Runs(folder, tiny_model_folder, write_mixture(folder / "mixture")).prepare(
        method=FULL, training=TRAINING
    )
    assert main([str(run_folder)]) == 0
    return run_folder


def test_every_weight_is_trained_and_the_loss_falls(trained: Path) -> None:
    figures = result_of(trained)["figures"]
    assert figures["trainable_parameters"] == figures["parameters"]
    assert figures["validation_loss_best"] < figures["validation_loss_first"] - 0.05


def test_the_saved_model_is_whole_in_bf16_and_loads_with_plain_transformers(
    trained: Path, tiny_model_folder: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    payload = trained / "acme.support/payload"
    tensors = load_file(payload / "model.safetensors")
    base = load_file(tiny_model_folder / "model.safetensors")
    assert tensors.keys() == base.keys()
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert all(tensor.shape == base[name].shape for name, tensor in tensors.items())
    assert all(not torch.equal(tensor.float(), base[name].float()) for name, tensor in tensors.items())
    config = json.loads((payload / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config.get("use_cache", True)
    model = AutoModelForCausalLM.from_pretrained(payload)
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.get_input_embeddings().weight, tensors["model.embed_tokens.weight"])
    assert AutoTokenizer.from_pretrained(payload)("Hello")["input_ids"]


def test_the_saved_model_is_the_best_checkpoint_to_rounding(trained: Path) -> None:
    figures = result_of(trained)["figures"]
    best = load_file(
        trained / f"acme.support/checkpoints/checkpoint-{figures['best_step']}/model.safetensors"
    )
    saved = load_file(trained / "acme.support/payload/model.safetensors")
    for name, tensor in saved.items():
        step = best[name].abs().clamp(min=1e-30) * 2.0**-7
        assert ((tensor.float() - best[name]).abs() <= step).all(), name


def test_resumed_from_an_earlier_checkpoint_equals_uninterrupted(trained: Path) -> None:
    resume_earlier(trained)
