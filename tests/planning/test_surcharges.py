"""A plan says what a base or a card costs more than usual: unpacked examples, scores of attention, fp32."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ft_dagster.errors import UserError
from ft_dagster.planning.cost.learned import Finished, PlannedWork, Predicted, utilizations
from ft_dagster.planning.dryrun.architecture import shipped
from ft_dagster.planning.dryrun.footprint import footprint
from ft_dagster.planning.dryrun.from_figures import facts, shapes_of_configuration
from ft_dagster.planning.dryrun.step import Step
from ft_dagster.planning.hardware.catalogue import load_catalogue
from ft_dagster.planning.layout import Layout
from ft_dagster.planning.packed_rows import ExampleLengths
from ft_dagster.planning.plan import PlanAndEstimate, make_plan
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.spec.training import TrainingSettings
from ft_dagster.training.batches.packing import width_of
from ft_dagster.training.contract import method_settings
from tests.long import mostly_long
from tests.planning.llama import spec
from tests.planning.small import given
from tests.present import present
from tests.tiny_classes import tiny_config
from tests.training.runs import LORA, TRAINING

pytestmark = pytest.mark.slow
LEAK = "the second moved by 4.6"


def lines_of(plan: PlanAndEstimate, start: str) -> list[str]:
    return [line for line in plan.estimate.warnings if line.startswith(start)]


def unpacked(small: PlanContext, lengths: ExampleLengths | None, **declared: Any) -> PlanAndEstimate:
    known = replace(given(small, 400), leak=LEAK, longest=200)
    return make_plan(spec(method="lora", **declared), known, replace(small, lengths=lengths))


def drawn_lengths() -> ExampleLengths:
    return ExampleLengths(np.random.RandomState(0).randint(10, 90, 400), (400,))


@pytest.mark.long
def test_a_plan_says_how_many_more_positions_steps_and_hours_unpacked_examples_take(
    small: PlanContext,
) -> None:
    lengths = drawn_lengths()
    plan = unpacked(small, lengths)
    apart = make_plan(spec(method="lora"), given(small, 400), replace(small, lengths=lengths))
    training = TrainingSettings.model_validate(plan.estimate.plan.training)
    times = present(lengths.padding(training, 1))
    (said,) = lines_of(plan, "not packed")
    assert f"({LEAK}): each has a row of its own, 400 a pass in place of about 79" in said
    assert f": {times:.3g} times the positions" in said
    assert f"{plan.estimate.steps:,} optimizer steps in place of {apart.estimate.steps:,}" in said
    hours = [present(each.estimate.predicted.training_hours) for each in (plan, apart)]
    assert hours[0] / hours[1] == pytest.approx(times)
    assert lines_of(apart, "not packed") == []


def test_the_positions_are_those_that_the_trainer_computes() -> None:
    lengths = drawn_lengths()
    training = TrainingSettings.model_validate(
        {
            **TRAINING,
            "packing": False,
            "per_device_train_batch_size": 4,
            "max_length": 96,
            "num_train_epochs": 1.0,
        }
    )
    order = [lengths.lengths[bin] for (bin,) in present(lengths._bins(training, 1))]
    computed = sum(
        len(order[at : at + 4]) * width_of(max(order[at : at + 4]), 96) for at in range(0, len(order), 4)
    )
    assert lengths.padding(training, 1) == pytest.approx(computed / lengths.lengths.sum())


def test_where_examples_cannot_be_counted_it_says_at_most(small: PlanContext) -> None:
    (said,) = lines_of(unpacked(small, None), "not packed")
    assert "at most about 4 times the positions" in said


def test_no_price_is_said_where_a_declaration_packs_nothing(small: PlanContext) -> None:
    assert lines_of(unpacked(small, None, training={"packing": False}), "not packed") == []


def test_a_finished_training_of_such_a_base_gives_its_own_hours_again() -> None:
    """Its tokens a second have the padding in them already."""
    layout = Layout("lora", 4, False, 256)
    predicted = Predicted("b", "CPU", layout, 10**8, 1e12, 1.0, 0.5)
    finished = Finished(predicted, None, utilization=0.3, tokens_per_second=100.0)
    one, other = (
        utilizations([finished], "CPU", {"lora": PlannedWork("b", layout, 1e6, padding)})["lora"]
        for padding in (1.0, 2.0)
    )
    assert other == pytest.approx(2 * one)


@pytest.fixture(scope="module", params=mostly_long(["gemma2", "granite_swa"], ["gemma2"]))
def eager(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config.json of a class that has no SDPA."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "config.json").write_text(tiny_config(request.param).to_json_string(use_diff=False))
    return folder


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_scores_of_whole_rows_are_in_the_memory_of_a_base_without_sdpa(eager: Path, device: Any) -> None:
    """They grow with the square of a row: of 4 heads, and some kept for the backward pass of each layer."""
    step = Step(rows=1, length=512, trained_positions=64, precision="fp32", device=device)
    lora = method_settings(LORA)
    found, fused = (footprint(eager, lora, replace(step, fused=fused)).peak for fused in (False, True))
    scores = 4 * 512**2 * 4  # bytes of those of a layer
    assert found - fused > 2 * scores


@pytest.mark.long
def test_a_plan_says_what_scores_take_of_a_base_without_sdpa(eager: Path, small: PlanContext) -> None:
    known = given(replace(small, architecture=eager), 400)
    plan = make_plan(spec(method="lora"), known, replace(small, architecture=eager))
    (said,) = lines_of(plan, "the class of this base has no attention by SDPA")
    assert "the scores of whole rows lie in memory" in said
    assert lines_of(make_plan(spec(method="lora"), given(small, 400), small), "the class of this base") == []


def on_card(config: Path, card: str, **declared: Any) -> PlanAndEstimate:
    hardware = load_catalogue().gpus(card)
    known = facts(
        shapes_of_configuration(config), examples=400, tokens=100_000, max_length=256,
        device_kind="cuda", ranks=1, device_memory=hardware.memory_bytes, bf16=hardware.bf16,
    )  # fmt: skip
    return make_plan(spec(method="lora", **declared), known, PlanContext(config, hardware))


@pytest.mark.parametrize(("card", "peak"), mostly_long([("T4", "8.1"), ("V100-32GB", "15.7")], ["V100-32GB"]))
def test_a_card_without_bf16_trains_in_fp32_and_the_plan_says_what_that_takes(
    small: PlanContext, card: str, peak: str
) -> None:
    plan, other = (on_card(small.architecture / "config.json", name) for name in (card, "L4"))
    assert (plan.content.training.precision, other.content.training.precision) == ("fp32", "bf16")
    (said,) = lines_of(plan, f"{card} has no bf16 arithmetic")
    assert f"and {peak} TFLOP/s at most" in said
    taken = [float(each) for each in re.findall(r"([\d.]+) [MG]B", said)]
    assert taken[0] > taken[1]
    assert lines_of(other, "L4 has no bf16") == []


def test_bf16_that_is_declared_for_such_a_card_is_refused_before_anything_trains(small: PlanContext) -> None:
    with pytest.raises(UserError, match="no bf16 arithmetic") as error:
        on_card(small.architecture / "config.json", "T4", training={"precision": "bf16"})
    assert error.value.field == "training.precision"


@pytest.mark.long
def test_what_does_not_fit_such_a_card_in_fp32_is_refused_by_the_plan() -> None:
    plan, other = (on_card(shipped()["Qwen2.5-7B"], name) for name in ("T4", "A10"))
    assert not plan.fits
    assert lines_of(plan, "T4 has no bf16 arithmetic")
    assert other.fits


@pytest.mark.parametrize("kind", ["granitemoehybrid", "qwen3_moe"])
def test_a_step_over_experts_in_fp32_runs_on_shapes(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(tiny_config(kind).to_json_string(use_diff=False))
    lora = method_settings({**LORA, "target_modules": ["q_proj"]})
    assert footprint(tmp_path, lora, Step(rows=1, length=32, trained_positions=8, precision="fp32")).peak > 0


def test_a_step_of_gpt2_with_a_token_to_pad_runs_on_shapes(tmp_path: Path) -> None:
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 300, "pad_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_positions": 256, **sizes}))
    step = Step(rows=2, length=32, trained_positions=8)
    assert footprint(tmp_path, method_settings(LORA), step).peak > 0


def test_a_layer_that_peft_refuses_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(tiny_config("falcon_h1").to_json_string(use_diff=False))
    with pytest.raises(UserError, match="no adapter on out_proj of this base") as error:
        footprint(tmp_path, method_settings(LORA), Step(rows=1, length=32, trained_positions=8))
    assert error.value.field == "method.target_modules"
