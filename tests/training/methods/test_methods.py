"""Each method trains for real: its loss falls, its payload loads as trained, and the same seed repeats it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.long import mostly_long
from tests.training.methods.taught import (
    METHODS,
    distance,
    habit,
    load_base,
    prepared,
    reloaded,
    resume_earlier,
    train,
    trained_model,
    trainer_of,
)
from tests.training.runs import Runs, payload_bytes, result_of

pytestmark = pytest.mark.slow
# The others are LoRA from another start or at another scale.
KINDS_OF_WEIGHTS = ("lora", "dora", "qlora", "lora_8bit", "prompt_tuning", "prefix_tuning")
FEW = {"max_steps": 3, "evaluations": 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Runs:
    folder = tmp_path_factory.mktemp("methods")
    return Runs(folder, tiny_model_folder, habit(folder / "mixture"))


@pytest.fixture(scope="module")
def short(runs: Runs) -> Callable[[str], Path]:
    """The run folder of a training of a few steps by a method; each is run once."""

    @cache
    def trained_shortly(method: str) -> Path:
        run_folder = prepared(runs, f"{method}-short", method, training=FEW, seed=0)
        train(run_folder)
        return run_folder

    return trained_shortly


@pytest.fixture(scope="module", params=mostly_long(METHODS, KINDS_OF_WEIGHTS))
def trained(request: pytest.FixtureRequest, runs: Runs) -> Path:
    """The run folder of a training by each method."""
    run_folder = prepared(runs, request.param, request.param)
    train(run_folder)
    return run_folder


def test_the_held_out_loss_falls(trained: Path) -> None:
    figures = result_of(trained)["figures"]
    assert figures["validation_loss_best"] < figures["validation_loss_first"] - 0.2


def test_the_payload_on_a_fresh_base_is_the_trained_model(trained: Path, runs: Runs) -> None:
    fresh = reloaded(runs.base, trained / "acme.support/payload")
    assert distance(fresh, trained_model(trained)) < 1e-5
    assert distance(fresh, load_base(runs.base)) > 0.1


def test_resumed_from_an_earlier_checkpoint_equals_uninterrupted(trained: Path) -> None:
    resume_earlier(trained)


@pytest.mark.parametrize("method", mostly_long(METHODS, ["lora"]))
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    runs: Runs, short: Callable[[str], Path], method: str
) -> None:
    again, another = (
        prepared(runs, f"{method}-{name}", method, training=FEW, seed=seed)
        for name, seed in (("again", 0), ("another", 1))
    )
    train(again)
    train(another)
    first, same, other = map(payload_bytes, (short(method), again, another))
    assert first == same
    assert first["adapter_model.safetensors"] != other["adapter_model.safetensors"]


def test_the_payload_names_the_base_by_digest_and_no_path(trained: Path, runs: Runs) -> None:
    payload = payload_bytes(trained)
    config = json.loads(payload["adapter_config.json"])
    assert config["base_model_name_or_path"] == f"sha256:{'b' * 64}"
    assert config["inference_mode"] is True
    assert not [name for name, content in payload.items() if str(runs.base.parent).encode() in content]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("method", mostly_long(METHODS, every=3))
def test_what_is_trained_is_fp32_and_the_base_frozen_in_the_plans_precision(
    runs: Runs, method: str, precision: str
) -> None:
    """As the optimizer gets it. Beside quantized layers the others are fp32, prepared for training."""
    folder = prepared(runs, f"{method}-{precision}", method, training={"precision": precision})
    _, trainer = trainer_of(folder)
    model = trainer.model
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    own = (getattr(model.base_model, "prefix", "prompt_encoder"), "prompt_encoder")  # PEFT's names
    base = {n: p for n, p in model.named_parameters() if not any(part in n for part in own)}
    assert not [name for name, parameter in base.items() if parameter.requires_grad]
    expected = {torch.bfloat16 if precision == "bf16" else torch.float32}
    if method in {"qlora", "lora_8bit"}:
        stored = {"qlora": torch.uint8, "lora_8bit": torch.int8}[method]
        assert base["base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"].dtype == stored
        expected = {stored, torch.float32}
    assert {parameter.dtype for parameter in base.values()} == expected


@pytest.mark.long
@pytest.mark.parametrize("method", ["qlora", "lora_8bit", "prompt_tuning", "prefix_tuning", "dora"])
def test_it_trains_in_bf16(runs: Runs, method: str) -> None:
    folder = prepared(runs, f"{method}-in-bf16", method, training={"precision": "bf16"})
    figures = train(folder)
    assert figures["validation_loss_best"] < figures["validation_loss_first"] - 0.2


@pytest.mark.long
@pytest.mark.parametrize("method", ["lora", "qlora", "lora_8bit", "prompt_tuning"])
def test_gradient_checkpointing_changes_no_weight(
    runs: Runs, short: Callable[[str], Path], method: str
) -> None:
    recomputed = prepared(
        runs, f"{method}-recomputed", method, training={**FEW, "gradient_checkpointing": True}
    )
    train(recomputed)
    assert payload_bytes(short(method)) == payload_bytes(recomputed)
