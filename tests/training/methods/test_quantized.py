"""The quantized base: the same bits before and after an evaluation, and known by the payload."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ft_dagster.errors import UserError
from ft_dagster.models.quantize import quantization_config, quantization_of, write_quantization
from ft_dagster.training.contract import read_run, recipe_digest
from ft_dagster.training.figures import parameter_counts
from tests.training.methods.taught import failure, habit, load_base, logits, prepared, train, trainer_of
from tests.training.runs import LORA, Runs, payload_bytes

OLDER_RECIPE = "92407b29af07861df76141577356ca81396b68bce7c352329bd0abc72e3d86b6"


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


ACTIVATIONS = [(None, torch.float32), ("bf16", torch.bfloat16)]


def with_activations(runs: Runs, activations: str | None, **changes: Any) -> Path:
    """A run of QLoRA in bf16, as older plans have it (None) or newer ones."""
    settings = {} if activations is None else {"activations": activations}
    training = {"precision": "bf16", **changes.pop("training", {})}
    return prepared(
        runs, f"activations-{activations}", "qlora", settings=settings, training=training, **changes
    )


@pytest.mark.slow
@pytest.mark.parametrize(("activations", "dtype"), ACTIVATIONS)
def test_what_qlora_keeps_for_the_backward_pass_has_the_type_that_its_plan_says(
    runs: Runs, activations: str | None, dtype: torch.dtype
) -> None:
    _, trainer = trainer_of(with_activations(runs, activations))
    model, between = trainer.model, set[torch.dtype]()
    types = {weight.dtype for name, weight in model.named_parameters() if "embed" in name or "norm" in name}
    assert types == {dtype}
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    for layer in model.get_base_model().model.layers:
        layer.register_forward_hook(lambda _layer, _given, out: between.add(out.dtype))
    batch = next(iter(trainer.get_train_dataloader()))
    batch.pop("ordinals")
    with trainer.compute_loss_context_manager():
        trainer.compute_loss(model, batch, num_items_in_batch=1).backward()
    assert between == {dtype}


@pytest.mark.long
def test_qlora_with_activations_in_bf16_learns_as_with_those_in_fp32_and_repeats_to_the_bit(
    runs: Runs,
) -> None:
    older, newer = (train(with_activations(runs, kind)) for kind in (None, "bf16"))
    for name in ("validation_loss_first", "validation_loss_best"):
        assert newer[name] == pytest.approx(older[name], rel=0.02)
    assert newer["validation_loss_best"] < newer["validation_loss_first"] - 0.5
    first = payload_bytes(runs.folder / "activations-bf16")
    again = prepared(runs, "again", "qlora", settings={"activations": "bf16"}, training={"precision": "bf16"})
    train(again)
    assert payload_bytes(again) == first


def test_a_plan_from_before_asks_for_the_same_training_as_it_did(runs: Runs) -> None:
    """The digest that its checkpoints bear, as older code gave it."""
    run_folder = Runs(runs.folder, Path("/base"), Path("/mixture")).prepare(method={**LORA, "name": "qlora"})
    run = read_run(run_folder)
    assert recipe_digest(run, run.members[0]) == OLDER_RECIPE


@pytest.mark.parametrize("method", ["qlora", "lora_8bit"])
def test_an_older_plan_that_divides_a_quantized_base_over_gpus_is_refused_before_it_is_loaded(
    runs: Runs, method: str
) -> None:
    run_folder = prepared(runs, f"{method}-divided", method, training={"deepspeed": {"stage": 3}}, ranks=8)
    file = run_folder / "run.json"
    content = json.loads(file.read_text())
    content["members"][0]["plan"]["device"] = {"kind": "cuda", "count": 8}
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="each GPU would load it whole") as error:
        trainer_of(run_folder)
    assert error.value.field == "training.deepspeed.stage"


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
