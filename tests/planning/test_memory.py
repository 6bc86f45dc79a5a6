from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ft_dagster.planning.facts import Facts
from ft_dagster.planning.memory_formula import Load, frozen_bytes, memory, storage
from ft_dagster.spec.training import TrainingSettings
from ft_dagster.training.contract import Base, method_settings
from ft_dagster.training.methods import Precision, taught_by
from tests.long import mostly_long
from tests.planning.llama import LLAMA_70B, METHODS, facts, gpus, plan
from tests.training.runs import TRAINING, Runs, train

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("method", "shape", "expected"),
    [
        ("lora", {}, 16.1),
        ("qlora", {}, 5.7),
        ("lora_8bit", {}, 11.2),
        ("qlora", LLAMA_70B, 39.5),
        ("lora_8bit", LLAMA_70B, 76.9),
        ("full", {}, 0.0),
    ],
)
def test_the_frozen_base_of_llama_3_in_gigabytes(method: str, shape: dict[str, Any], expected: float) -> None:
    assert round(frozen_bytes(Load(method, 0, "bf16", facts(**shape))) / 1e9, 1) == expected


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(("method", "tolerance"), [("qlora", 0.03), ("lora_8bit", 0.03), ("lora", 0.0)])
def test_the_frozen_base_is_as_large_as_the_loaded_one(
    method: str, tolerance: float, precision: Precision, tiny_facts: Facts, tiny_model_folder: Path
) -> None:
    training = {"precision": precision}
    settings = plan({"name": method, "rank": 4}, tiny_facts, training=training)["method"]
    model = taught_by(method_settings(settings)).build(
        Base(folder=tiny_model_folder, digest="b" * 64), precision, 0
    )
    frozen = sum(_bytes_of(weight) for weight in model.parameters() if not weight.requires_grad)
    assert frozen_bytes(Load(method, 0, precision, tiny_facts)) == pytest.approx(frozen, rel=tolerance)


def _bytes_of(weight: Any) -> int:
    own = weight.numel() * weight.element_size()
    state = getattr(weight, "quant_state", None)
    if state is None:
        return own
    return own + state.absmax.nbytes + state.state2.absmax.nbytes


@pytest.mark.parametrize(
    ("stage", "precision", "bytes_a_parameter"),
    [
        (0, "bf16", 16),
        (0, "fp32", 16),
        (2, "bf16", 2 + 14 / 8),
        (3, "bf16", 16 / 8),
        (2, "fp32", 4 + 16 / 8),
        (3, "fp32", 16 / 8),
    ],
)
def test_what_full_keeps_of_a_parameter_in_each_of_eight_processes(
    stage: int, precision: str, bytes_a_parameter: float
) -> None:
    given = gpus(8)
    needed = memory(Load("full", given.parameters, precision, given), stage, "none")
    assert needed.floor_bytes == pytest.approx(bytes_a_parameter * given.parameters, rel=1e-6)


@pytest.mark.parametrize(("method", "least"), [("lora", 16.1), ("qlora", 5.7)])
def test_only_stage_3_shards_a_frozen_base(method: str, least: float) -> None:
    given = gpus(8)
    floors = {s: memory(Load(method, 10**6, "bf16", given), s, "none").frozen_bytes for s in (0, 2, 3)}
    assert floors[0] == floors[2] == pytest.approx(least * 1e9, rel=0.01)
    assert floors[3] == pytest.approx(floors[0] / 8, abs=1)


@pytest.mark.parametrize("stage", [2, 3])
def test_what_is_offloaded_leaves_the_device_and_is_not_lost(stage: int) -> None:
    given = gpus(8)
    load = Load("full", given.parameters, "bf16", given)
    on, off = memory(load, stage, "none"), memory(load, stage, "cpu")
    assert off.states_bytes == 0
    assert off.floor_bytes + off.offloaded_bytes == on.floor_bytes
    assert off.floor_bytes <= 2 * given.parameters


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_a_soft_prompt_costs_its_frozen_base(method: str) -> None:
    needed = plan(method, gpus(1))["memory"]
    assert needed.floor_bytes - needed.frozen_bytes == 16 * needed.trainable_parameters < 50e6


@pytest.mark.parametrize("method", METHODS)
def test_storage_counts_the_kept_checkpoints_the_newest_and_the_one_being_written(method: str) -> None:
    made = plan(method, training={"keep_best": 2, "keep_last": 1})
    kept, trained = made["storage"], made["memory"].trainable_parameters
    assert kept.checkpoint_bytes == 12 * trained
    assert kept.checkpoints_bytes == 5 * kept.checkpoint_bytes


def test_storage_counts_two_checkpoints_for_each_resume_point_but_none_under_zero() -> None:
    given = facts(parameters=1_000)
    load, settings = Load("full", given.parameters, "bf16", given), TrainingSettings(**TRAINING)
    plain, kept, zero = (storage(load, *each) for each in ((0, settings), (0, settings, 3), (2, settings, 3)))
    assert kept.resume_points_bytes == 6 * kept.checkpoint_bytes
    assert kept.checkpoints_bytes == plain.checkpoints_bytes + kept.resume_points_bytes
    assert plain.resume_points_bytes == zero.resume_points_bytes == 0


def test_what_is_released_of_llama_3_8b() -> None:
    lora, full, prompt = (plan(method)["storage"] for method in ("lora", "full", "prompt_tuning"))
    assert lora.adapter_bytes == 4 * 41_943_040
    assert lora.whole_bytes == 2 * 8_030_261_248 + lora.adapter_bytes
    assert (full.adapter_bytes, full.whole_bytes) == (None, 2 * 8_030_261_248)
    assert prompt.whole_bytes is None


@pytest.mark.parametrize("method", mostly_long(["full", "lora", "prefix_tuning"], ["lora"]))
def test_a_checkpoint_and_a_payload_are_as_large_as_predicted(
    method: str, runs: Runs, tiny_facts: Facts
) -> None:
    made = plan(method, tiny_facts)
    folder = runs.prepare(method=made["method"], training={"max_steps": 2, "packing": False})
    assert train(folder) == 0
    (payload,) = (folder / "acme.support" / "payload").glob("*.safetensors")
    last = folder / "acme.support" / "checkpoints" / "checkpoint-2"
    (weights,) = last.glob("*.safetensors")
    written = [file.stat().st_size for file in (weights, last / "optimizer.pt", payload)]
    predicted = made["storage"]
    released = predicted.whole_bytes if method == "full" else predicted.adapter_bytes
    expected = [predicted.checkpoint_weights_bytes, predicted.checkpoint_optimizer_bytes, released]
    labels = 1_000 * len(load_file(weights))  # a tensor's name, shape and place
    assert written == pytest.approx(expected, rel=0.02, abs=labels + 2_000)
