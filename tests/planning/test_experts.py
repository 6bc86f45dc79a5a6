"""Bases of experts: the plan has the experts among what LoRA updates, and says what it leaves as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ft_dagster.errors import UserError
from ft_dagster.methods.lora import LoraSettings
from ft_dagster.models.attention import attention_of
from ft_dagster.planning.dryrun.from_figures import shapes_of_configuration
from ft_dagster.planning.dryrun.reach import untrained_by
from ft_dagster.planning.layout import Layout
from ft_dagster.planning.planned_method import refuse_divided
from ft_dagster.training.contract import Base, method_settings
from ft_dagster.training.methods import taught_by
from ft_dagster.training.skeleton import skeleton
from tests.planning.llama import facts, plan, reason
from tests.tiny_classes import EXPERTS, STATEFUL, tiny_config

pytestmark = pytest.mark.slow

KINDS = (*EXPERTS, "qwen3_next", "qwen3_5_moe_text")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.fixture
def architecture(tmp_path: Path) -> Callable[[str], Path]:
    def write(kind: str) -> Path:
        (tmp_path / "config.json").write_text(tiny_config(kind).to_json_string(use_diff=False))
        return tmp_path

    return write


def lora(**settings: Any) -> LoraSettings:
    return LoraSettings(**settings)


def planned(architecture: Path, method: Any) -> dict[str, Any]:
    """The plan of a declared method on this base."""
    shapes = shapes_of_configuration(architecture / "config.json")
    return plan(method, facts(linear_shapes=shapes.linear_shapes, tensors=shapes.tensors))


def settings_of(made: dict[str, Any]) -> LoraSettings:
    settings = method_settings(made["method"])
    assert isinstance(settings, LoraSettings)
    return settings


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["lora", "qlora", "lora_8bit"])
def test_all_linear_has_the_experts_in_the_plan_and_says_what_is_left_alone(
    architecture: Callable[[str], Path], kind: str, method: str
) -> None:
    made = planned(architecture(kind), method)
    assert {"experts.down_proj", "experts.gate_up_proj"} <= set(made["method"]["target_parameters"])
    why = reason(made, "method.target_parameters")["reason"]
    assert "stay as they are unless method.target_modules names them" in why
    assert "of the experts" not in (untrained_by(settings_of(made), architecture(kind)) or "")


@pytest.mark.parametrize("method", ["qlora", "lora_8bit"])
def test_the_plan_says_that_packed_layers_which_peft_takes_for_experts_are_not_trained(
    architecture: Callable[[str], Path], method: str
) -> None:
    folder = architecture("deepseek_v3")
    made = planned(folder, method)
    said = untrained_by(settings_of(made), folder)
    assert said is not None
    assert said.startswith(f"{method} trains no weight of ")
    assert "mlp.gate_proj" in said
    assert "down_proj, gate_proj, up_proj" in reason(made, "method.target_parameters")["reason"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_counted_of_a_base_of_experts_is_what_is_trained(
    architecture: Callable[[str], Path], kind: str
) -> None:
    folder = architecture(kind)
    shapes, settings = shapes_of_configuration(folder / "config.json"), settings_of(planned(folder, "lora"))
    config = tiny_config(kind)
    with torch.device("meta"):
        model = skeleton(
            config,
            Base(folder=Path("base"), digest="0" * 64),
            taught_by(settings),
            attention=attention_of(config),
            dtype=torch.float32,
            gradient_checkpointing=False,
        )
    trained = {name: w.numel() for name, w in model.named_parameters() if w.requires_grad}
    counted = facts(linear_shapes=shapes.linear_shapes, tensors=shapes.tensors)
    assert settings.trainable_parameters(counted) == sum(trained.values())
    assert not any(gate.split(".")[0] in name.split(".") for gate in shapes.tensors.gates for name in trained)


@pytest.mark.parametrize(
    ("kind", "named", "layers", "tensors"),
    [
        ("qwen3_moe", ["q_proj", "gate"], ["q_proj"], ["gate.weight"]),
        ("qwen3_moe", ["experts"], [], ["experts.down_proj", "experts.gate_up_proj"]),
        ("qwen3_moe", ["q_proj", "down_proj"], ["q_proj"], ["experts.down_proj"]),
        ("llama4_text", ["router", "down_proj"], ["router", "down_proj"], None),
        ("qwen3_next", ["shared_expert_gate"], ["shared_expert_gate"], None),
        ("deepseek_v3", ["up_proj"], [], ["mlp.up_proj.weight", "shared_experts.up_proj.weight"]),
        ("llama", ["q_proj", "down_proj"], ["q_proj", "down_proj"], None),
    ],
)
def test_a_name_of_target_modules_may_be_that_of_experts_of_a_router_or_of_a_gate(
    architecture: Callable[[str], Path], kind: str, named: list[str], layers: list[str], tensors: Any
) -> None:
    made = planned(architecture(kind), {"name": "lora", "rank": 1, "target_modules": named})
    assert list(made["method"]["target_modules"]) == layers
    found = made["method"].get("target_parameters")
    assert (found if found is None else list(found)) == tensors


@pytest.mark.parametrize(
    ("named", "problem", "known"),
    [
        (["q_prj"], "no such layer, tensor of experts, or router", "gate.weight"),
        ([], "names no layer", "leave it"),
    ],
)
def test_a_name_that_stands_for_nothing_is_refused_with_those_that_there_are(
    architecture: Callable[[str], Path], named: list[str], problem: str, known: str
) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        planned(architecture("qwen3_moe"), {"name": "lora", "target_modules": named})
    assert caught.value.field == "method.target_modules"
    assert known in str(caught.value.fix)


@pytest.mark.parametrize(("field", "value"), [("dropout", 0.05), ("use_dora", True)])
def test_what_peft_has_not_for_experts_is_refused_with_a_way_out(
    architecture: Callable[[str], Path], field: str, value: Any
) -> None:
    folder = architecture("qwen3_moe")
    with pytest.raises(UserError) as caught:
        planned(folder, {"name": "lora", field: value})
    assert (caught.value.field, caught.value.value) == (f"method.{field}", value)
    beside = planned(folder, {"name": "lora", field: value, "target_modules": list(ATTENTION)})
    assert "target_parameters" not in beside["method"]
    said = untrained_by(settings_of(beside), folder)
    assert said is not None
    assert "trains no weight of the experts" in said


def test_layers_that_are_packed_and_updated_as_tensors_are_refused(
    architecture: Callable[[str], Path],
) -> None:
    with pytest.raises(UserError, match="has packed") as caught:
        planned(architecture("deepseek_v3"), {"name": "qlora", "target_modules": ["up_proj"]})
    assert caught.value.field == "method.target_modules"


@pytest.mark.parametrize(("method", "bits"), [("qlora", 16), ("lora_8bit", 32), ("lora", 0)])
def test_the_plan_says_that_nothing_quantizes_the_experts(
    architecture: Callable[[str], Path], method: str, bits: int
) -> None:
    lines = planned(architecture("mixtral"), method)["warnings"]
    said = [line for line in lines if "quantizes linear layers alone" in line]
    assert bool(said) == bool(bits)
    assert not bits or f"stay at {bits} bits" in said[0]


def test_experts_divided_by_zero_3_are_refused() -> None:
    settings = LoraSettings(target_parameters=("experts.down_proj",))
    layout = Layout("lora", 1, False, 128, 3, "none", 2)
    with pytest.raises(UserError, match="ZeRO-3 divides every tensor"):
        refuse_divided(settings, layout)
    refuse_divided(settings, replace(layout, zero_stage=2))
    refuse_divided(LoraSettings(), layout)


def test_layers_that_are_named_are_no_reason_to_speak_of_the_rest_of_a_dense_base(
    architecture: Callable[[str], Path],
) -> None:
    assert untrained_by(lora(target_modules=ATTENTION), architecture("llama")) is None


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "lfm2", "bamba", "qwen3_5_text"])
def test_nothing_is_said_where_all_but_little_is_trained(
    architecture: Callable[[str], Path], kind: str
) -> None:
    assert untrained_by(lora(), architecture(kind)) is None


def test_what_all_linear_does_not_come_to_is_said_of_any_base(architecture: Callable[[str], Path]) -> None:
    assert "zamba" in STATEFUL
    said = untrained_by(lora(), architecture("zamba"))
    assert said is not None
    assert "experts" not in said
    assert "mamba.x_proj_weight" in said


def test_a_gate_that_limits_the_rank_is_named_in_reason_warning_and_refusal() -> None:
    gated = facts(linear_shapes={"q_proj": [[64, 64]], "shared_expert_gate": [[1, 64]]})
    made = plan("lora", gated)
    assert made["method"]["rank"] == 1
    assert "the smallest layer, shared_expert_gate, allows 1" in reason(made, "method.rank")["reason"]
    said = "shared_expert_gate has a side of 1 and limits the rank of every layer to that, where 16 is usual"
    assert any(line.startswith(said) for line in made["warnings"])
    with pytest.raises(UserError) as caught:
        plan({"name": "lora", "rank": 8}, gated)
    assert "1 of shared_expert_gate" in caught.value.problem
    assert "name method.target_modules without shared_expert_gate" in caught.value.fix
    without = plan({"name": "lora", "target_modules": ["q_proj"]}, gated)
    assert without["method"]["rank"] == 16
    assert not any("shared_expert_gate" in line for line in without["warnings"])
