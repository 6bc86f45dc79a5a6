"""Starts of an adapter and a parent's adapter beneath it: what cannot be trained is refused by the plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from pydantic import ValidationError

from ft_dagster.errors import UserError
from ft_dagster.methods.lora import OF_THE_BASE, LoraSettings
from ft_dagster.planning.layout import Layout
from ft_dagster.planning.planned_method import PlanContext, plan_method, refuse_divided
from ft_dagster.training.contract import ParentAdapter
from tests.long import mostly_long
from tests.planning.llama import spec
from tests.planning.small import given, small_context, surveyed
from tests.tiny_classes import tiny_config

pytestmark = pytest.mark.slow
BOTH = ["experts.down_proj", "experts.gate_up_proj"]


def above(context: PlanContext, folder: Path, **parent: Any) -> PlanContext:
    """The context of a child on a parent's adapter of such a configuration."""
    LoraConfig(task_type="CAUSAL_LM", r=4, **{"target_modules": ["q_proj"], **parent}).save_pretrained(folder)
    (folder / "adapter_model.safetensors").touch()
    return replace(context, parent=ParentAdapter(adapter=folder, digest="p" * 64))


@pytest.fixture
def experts(tmp_path: Path) -> PlanContext:
    (tmp_path / "config.json").write_text(tiny_config("qwen3_moe").to_json_string(use_diff=False))
    return replace(small_context(tmp_path / "small"), architecture=tmp_path)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()


@pytest.mark.parametrize("start", mostly_long(["gaussian", "orthogonal", *OF_THE_BASE], ["pissa"]))
def test_each_start_has_a_plan_beside_which_the_other_methods_are_ranked(start: str, tmp_path: Path) -> None:
    context = small_context(tmp_path)
    _, _, found = surveyed(context, 400, method={"name": "lora", "init_lora_weights": start})
    assert found.chosen.resolved.method.model_dump()["init_lora_weights"] == start
    assert {"qlora", "lora_8bit", "full"} <= found.planned.keys()


@pytest.mark.parametrize("start", OF_THE_BASE)
def test_a_start_above_a_parent_that_stays_is_refused_by_declaration_and_plan(
    start: str, tmp_path: Path
) -> None:
    method = {"name": "lora", "init_lora_weights": start}
    with pytest.raises(ValidationError, match="declare `parent_adapter: fold`, or leave the start out"):
        spec(method=method, base_model={"variant": "acme.parent", "parent_adapter": "stack"})
    context = above(small_context(tmp_path), tmp_path / "parent")
    with pytest.raises(UserError) as error:
        plan_method(spec(method=method), given(context, 400), context)
    assert error.value.field == "method.init_lora_weights"
    assert "parent_adapter: fold" in str(error.value.fix)


@pytest.mark.parametrize("start", OF_THE_BASE)
def test_a_start_under_zero_3_is_refused_by_the_plan(start: Any) -> None:
    settings, layout = LoraSettings(init_lora_weights=start), Layout("lora", 1, False, 128, 3, "none", 2)
    with pytest.raises(UserError, match="ZeRO-3 spreads them") as error:
        refuse_divided(settings, layout)
    assert error.value.field == "method.init_lora_weights"
    refuse_divided(settings, replace(layout, zero_stage=2))


def test_a_dora_above_a_parent_is_refused_by_the_plan(tmp_path: Path) -> None:
    context = above(small_context(tmp_path), tmp_path / "parent")
    with pytest.raises(UserError, match="a DoRA cannot be added"):
        plan_method(spec(method={"name": "lora", "use_dora": True}), given(context, 400), context)


def test_a_child_of_other_tensors_of_experts_than_its_parents_is_refused_by_the_plan(
    experts: PlanContext, tmp_path: Path
) -> None:
    context = above(experts, tmp_path / "parent", target_parameters=BOTH)
    known = given(context, 400)
    named = spec(method={"name": "lora", "target_modules": ["q_proj", "down_proj"]})
    with pytest.raises(UserError, match=r"updates the tensors experts\.down_proj, and the parent") as error:
        plan_method(named, known, context)
    assert error.value.field == "method.target_modules"
    assert "fold" in str(error.value.fix)


@pytest.mark.parametrize("theirs", [BOTH, None])
def test_a_child_of_its_parents_tensors_or_of_none_beside_it_has_a_plan(
    experts: PlanContext, tmp_path: Path, theirs: list[str] | None
) -> None:
    context = above(experts, tmp_path / "parent", target_parameters=theirs)
    planned = plan_method(spec(method="lora"), given(context, 400), context)
    assert list(planned.resolved.method.model_dump()["target_parameters"]) == BOTH
