"""Bases of experts: the plan says what LoRA leaves as it is, and refuses what comes to nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ft_dagster.errors import UserError
from ft_dagster.methods import method_of
from ft_dagster.methods.lora import LoraSettings
from ft_dagster.planning.dryrun.reach import reach_of, untrained_by
from ft_dagster.planning.shapes import linear_shapes
from ft_dagster.training.contract import Base
from ft_dagster.training.methods import taught_by
from ft_dagster.training.skeleton import skeleton
from tests.planning.llama import facts, plan, reason
from tests.tiny_classes import STATEFUL, tiny_config

NO_EXPERT = ("granitemoe", "llama4_text", "phimoe", "qwen2_moe")
ALL_EXPERTS = ("qwen3_moe", "mixtral", "olmoe", "deepseek_v3", "glm4_moe", "ernie4_5_moe", "qwen3_next")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.fixture
def architecture(tmp_path: Path) -> Callable[[str], Path]:
    def write(kind: str) -> Path:
        (tmp_path / "config.json").write_text(tiny_config(kind).to_json_string(use_diff=False))
        return tmp_path

    return write


def lora(**settings: Any) -> LoraSettings:
    return LoraSettings(**settings)


@pytest.mark.parametrize("kind", NO_EXPERT)
@pytest.mark.parametrize("method", ["lora", "qlora", "lora_8bit"])
def test_the_plan_says_where_no_weight_of_the_experts_is_trained(
    architecture: Callable[[str], Path], kind: str, method: str
) -> None:
    said = untrained_by(method_of(method).settings(name=method), architecture(kind))
    assert said is not None
    assert said.startswith(f"{method} trains no weight of the experts, ")
    assert "experts.gate_up_proj" in said


@pytest.mark.parametrize("kind", NO_EXPERT)
def test_the_share_that_stays_as_it_is_is_that_of_the_whole_model(
    architecture: Callable[[str], Path], kind: str
) -> None:
    reach = reach_of(architecture(kind), lora())
    assert reach is not None
    with torch.device("meta"):
        model = skeleton(
            tiny_config(kind),
            Base(folder=Path("base"), digest="0" * 64),
            taught_by(lora(rank=1)),
            attention="sdpa",
            dtype=torch.float32,
            gradient_checkpointing=False,
        ).get_base_model()
    experts = sum(w.numel() for name, w in model.named_parameters() if ".experts." in name and w.ndim > 2)
    named = {name: count for name, count in reach.beyond.items() if ".experts." in name}
    layers = model.config.num_hidden_layers
    assert sum(named.values()) in (experts, experts // layers)  # layers that are alike are counted once
    assert experts / sum(w.numel() for w in model.parameters()) > 0.1


@pytest.mark.parametrize("kind", ALL_EXPERTS)
def test_an_adapter_that_is_neither_merged_nor_served_is_refused_before_it_is_trained(
    architecture: Callable[[str], Path], kind: str
) -> None:
    with pytest.raises(UserError) as caught:
        untrained_by(lora(), architecture(kind))
    error = caught.value
    assert (error.field, error.value) == ("method.target_modules", "all-linear")
    assert ".experts." in error.problem
    beside = error.fix.partition("(")[2].partition(")")[0].split(", ")
    said = untrained_by(lora(target_modules=tuple(beside)), architecture(kind))  # the way out is one
    assert said is not None
    assert "trains no weight of the experts" in said


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


@pytest.mark.parametrize("kind", NO_EXPERT)
def test_what_is_counted_of_a_base_of_experts_is_what_is_trained(
    architecture: Callable[[str], Path], kind: str
) -> None:
    """The files hold each expert by itself: their tensors are no layers that get an update."""
    shapes, settings = linear_shapes(architecture(kind)), lora(rank=1)
    with torch.device("meta"):
        model = skeleton(
            tiny_config(kind),
            Base(folder=Path("base"), digest="0" * 64),
            taught_by(settings),
            attention="sdpa",
            dtype=torch.float32,
            gradient_checkpointing=False,
        )
    trained = sum(w.numel() for w in model.parameters() if w.requires_grad)
    assert settings.trainable_parameters(facts(linear_shapes=shapes)) == trained


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
