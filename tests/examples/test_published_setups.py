"""The published set-ups: each resolves to its values, or the plan names the correction."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.settings import load_settings
from ft_dagster.spec import Declared, VariantKey, load_corpus, load_variant, variant_files
from ft_dagster.training import zero
from ft_dagster.training.batches.packing import evaluation_steps
from ft_dagster.training.contract import Base, Member, Plan, method_settings
from ft_dagster.training.methods import taught_by
from ft_dagster.training.methods.base import load_base
from ft_dagster.workspace.policy import problems
from tests.planning.llama import A100_80, gpus, reason, resolved

SETUPS = Path(__file__).resolve().parents[2] / "examples" / "published_setups"
NAMES = ("full", "lora", "qlora")
ROWS: dict[str, Any] = {
    "examples": 50_000,
    "tokens": 20_000_000,
    "trained_tokens": 8_000_000,
    "general_share": 0.05,
}


def declared(name: str) -> Declared:
    return load_variant(SETUPS, VariantKey("llama", name))


def plan_of(name: str) -> dict[str, Any]:
    spec = declared(name).spec
    return resolved(spec, gpus(spec.resources.gpus, max_length=spec.training.max_length or 1024, **ROWS))


def test_the_three_set_ups_are_declared_for_one_base() -> None:
    assert {key.variant for key in variant_files(SETUPS)} == set(NAMES)
    assert {declared(name).spec.base_model.source for name in NAMES} == {"meta-llama/Meta-Llama-3-8B"}
    assert load_corpus(SETUPS, "general").sources


@pytest.mark.parametrize("name", NAMES)
def test_what_they_share(name: str) -> None:
    training = plan_of(name)["training"]
    assert (training["precision"], training["gradient_checkpointing"]) == ("bf16", True)
    assert (training["lr_scheduler_type"], training["warmup_ratio"]) == ("cosine", 0.03)
    assert training["max_grad_norm"] == 1.0


def test_full() -> None:
    made = plan_of("full")
    training = made["training"]
    assert made["method"] == {"name": "full"}
    assert (training["num_train_epochs"], training["learning_rate"]) == (3.0, 2e-5)
    assert (training["per_device_train_batch_size"], training["gradient_accumulation_steps"]) == (2, 8)
    assert (training["deepspeed"]["stage"], training["deepspeed"]["offload"]) == (3, "none")
    assert made["ranks"] == 8
    assert made["warnings"] == []


def test_full_shards_as_the_guides_configure_deepspeed(tmp_path: Path) -> None:
    plan = Plan.model_validate(plan_of("full"))
    member = Member(variant="llama.full", mixture=tmp_path, mixture_digest="m", plan=plan, output=tmp_path)
    configuration = zero.configuration(member, ranks=8)
    assert configuration is not None
    optimization = configuration["zero_optimization"]
    assert optimization["stage"] == 3
    assert optimization["overlap_comm"] is True
    assert optimization["contiguous_gradients"] is True
    assert not [name for name in optimization if name.startswith("offload")]
    assert configuration["bf16"]["enabled"] is True
    assert configuration["gradient_clipping"] == 1.0
    assert configuration["train_batch_size"] == 2 * 8 * 8


def test_full_keeps_sixteen_bytes_a_parameter_not_fourteen() -> None:
    memory = plan_of("full")["memory"]
    assert 8 * memory.floor_bytes == pytest.approx(16 * 8_030_261_248)
    assert memory.floor_bytes < A100_80


def test_lora() -> None:
    made = plan_of("lora")
    training = made["training"]
    seven = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert made["method"] == {
        "name": "lora", "rank": 16, "alpha": 32.0, "dropout": 0.05, "target_modules": seven,
        "use_rslora": False, "use_dora": False,
    }  # fmt: skip
    assert (training["num_train_epochs"], training["learning_rate"]) == (3.0, 2e-4)
    assert (training["per_device_train_batch_size"], training["gradient_accumulation_steps"]) == (4, 4)
    assert (training["max_length"], training["packing"]) == (2048, False)
    assert declared("lora").spec.export.format == "adapter"
    assert made["memory"].trainable_parameters == 41_943_040
    assert made["warnings"] == []


def test_all_linear_finds_the_seven_layers_of_a_llama() -> None:
    spec = declared("lora").spec
    every = spec.model_copy(update={"method": spec.method.model_copy(update={"target_modules": None})})
    made = resolved(every, gpus(1, **ROWS))
    assert made["method"]["target_modules"] == "all-linear"
    assert made["memory"].trainable_parameters == 41_943_040


def test_qlora_names_its_correction() -> None:
    made = plan_of("qlora")
    assert made["method"] == {
        "name": "qlora", "rank": 64, "alpha": 16.0, "dropout": 0.1, "use_rslora": False, "use_dora": False,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "activations": "bf16",
    }  # fmt: skip
    assert made["memory"].trainable_parameters == 54_525_952
    (warning,) = made["warnings"]
    assert "alpha 16 with rank 64 scales by 0.25" in warning
    assert "which alpha 32 would give at this rank" in warning


def test_what_the_guides_leave_open_the_plan_decides_and_says() -> None:
    made = plan_of("qlora")
    assert (made["training"]["num_train_epochs"], made["training"]["learning_rate"]) == (3.0, 2e-4)
    for field in ("num_train_epochs", "learning_rate", "gradient_accumulation_steps"):
        assert reason(made, f"training.{field}")["origin"] == "built-in"


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_written_every_ten_to_twenty_percent(name: str) -> None:
    made = plan_of(name)
    at = [0, *evaluation_steps(made["steps"], made["training"]["evaluations"])]
    gaps = [(after - before) / made["steps"] for before, after in pairwise(at)]
    assert all(0.10 <= gap <= 0.20 for gap in gaps)


def test_an_adapter_has_no_bias_and_training_no_cache(tiny_model_folder: Path) -> None:
    base = load_base(tiny_model_folder, "fp32")
    assert base.config.use_cache is False
    method: Any = taught_by(method_settings(plan_of("lora")["method"]))
    configuration = method.configure(base, Base(folder=tiny_model_folder, digest="b" * 64))
    assert configuration.bias == "none"


def test_they_pass_below_no_built_in_floor() -> None:
    assert [problems(load_settings(SETUPS), declared(name)) for name in NAMES] == [[], [], []]
