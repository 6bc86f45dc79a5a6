"""The quantized base: the same bits before and after an evaluation, and known by the payload."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ft_dagster.data.quantize import quantization_config, quantization_of, write_quantization
from ft_dagster.errors import UserError
from ft_dagster.training.figures import parameter_counts
from tests.training.methods.taught import failure, habit, load_base, logits, prepared, trainer_of
from tests.training.runs import Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Runs:
    folder = tmp_path_factory.mktemp("quantized")
    return Runs(folder, tiny_model_folder, habit(folder / "mixture"))


def frozen(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["qlora", "lora_8bit"])
def test_an_evaluation_before_training_changes_no_weight_and_stops_no_gradient(
    runs: Runs, method: str
) -> None:
    """bitsandbytes packs 4-bit weights again at the first evaluation on a CPU with AVX512-BF16."""
    _, trainer = trainer_of(prepared(runs, f"{method}-evaluated", method))
    model = trainer.model
    before = frozen(model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    logits(model.eval())
    after = frozen(model)
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    batch = next(iter(trainer.get_train_dataloader()))
    batch.pop("ordinals")
    trainer.compute_loss(model.train(), batch, num_items_in_batch=1).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in trained)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_the_linear_layers_are_quantized_the_head_and_the_embeddings_not(runs: Runs, kind: str) -> None:
    whole, small = load_base(runs.base), load_base(runs.base, kind)
    assert 0.001 < (logits(whole) - logits(small)).abs().max() < 0.5
    types = {n: p.dtype for n, p in small.named_parameters()}
    stored = {"nf4": torch.uint8, "int8": torch.int8}[kind]
    assert {t for n, t in types.items() if "_proj" in n} == {stored}
    assert {t for n, t in types.items() if "_proj" not in n} == {torch.float32}


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_packed_weight_counts_as_what_is_packed_in_it(runs: Runs, kind: str) -> None:
    whole, small = load_base(runs.base), load_base(runs.base, kind)
    assert parameter_counts(small)[0] == parameter_counts(whole)[0]


def test_nf4_is_double_quantized_and_the_storage_changes_no_value(runs: Runs) -> None:
    plain = quantization_config("nf4", torch.float32)
    sharded = quantization_config("nf4", torch.float32, torch.float32)
    assert (plain.bnb_4bit_quant_type, plain.bnb_4bit_use_double_quant) == ("nf4", True)
    from transformers import AutoModelForCausalLM

    one, other = (
        AutoModelForCausalLM.from_pretrained(
            runs.base, dtype=torch.float32, quantization_config=config
        ).train()
        for config in (plain, sharded)
    )
    layer = "model.layers.0.mlp.up_proj.weight"
    assert (one.get_parameter(layer).dtype, other.get_parameter(layer).dtype) == (torch.uint8, torch.float32)
    assert one.get_parameter(layer).quant_state.nested
    assert torch.equal(logits(one), logits(other))


def test_the_payload_says_how_the_base_was_quantized(tmp_path: Path) -> None:
    assert quantization_of(tmp_path) is None
    for kind in ("nf4", "int8"):
        write_quantization(tmp_path, kind)
        assert quantization_of(tmp_path) == kind
    assert json.loads((tmp_path / "quantization.json").read_text()) == {"quantization": "int8"}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"quantization": "fp4"}'])
def test_an_unknown_quantization_is_a_users_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "quantization.json").write_text(content)
    with pytest.raises(UserError, match="how the base was quantized"):
        quantization_of(tmp_path)


@pytest.mark.parametrize("method", ["qlora", "lora_8bit"])
def test_without_bitsandbytes_the_way_out_is_lora(
    runs: Runs, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # Python then finds no such module
    error = failure(prepared(runs, f"{method}-without", method))
    assert (error["field"], error["value"], error["fix"]) == ("method.name", f"'{method}'", "Use lora")


@pytest.mark.parametrize("method", ["qlora", "lora_8bit"])
def test_a_base_without_layers_to_quantize_is_refused(runs: Runs, tmp_path: Path, method: str) -> None:
    """A model whose one linear layer is its head."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(runs.base)
    config.num_hidden_layers = 0
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    for file in runs.base.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    error = failure(prepared(runs, f"{method}-nothing", method, base={"folder": str(tmp_path)}))
    assert (error["field"], error["value"], error["fix"]) == ("method.name", f"'{method}'", "Use lora")
    assert "no linear layer" in error["problem"]
