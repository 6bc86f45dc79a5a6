"""LoRA on bases of experts, by architecture: the experts' weights move, and what comes out is served."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ft_dagster.evaluation.models.load import load_tuned
from ft_dagster.evaluation.models.loaded_by_vllm import not_loaded
from ft_dagster.exit_codes import DONE
from ft_dagster.export.certificate import certify
from ft_dagster.export.merged import export_merged
from ft_dagster.models.quantize import quantization_of
from ft_dagster.planning.dryrun.footprint import footprint
from ft_dagster.planning.dryrun.step import Step
from ft_dagster.planning.shapes import linear_shapes, tensors
from ft_dagster.report.training import figure_rows
from ft_dagster.training.contract import method_settings
from ft_dagster.training.training_figures import TrainingFigures
from tests.export.exports import DIGEST, edit_json, request, written
from tests.tiny_classes import make_tiny
from tests.tiny_model import tiny_tokenizer
from tests.training.methods.taught import (
    METHODS,
    distance,
    failure,
    load_base,
    prepared,
    reloaded,
    train,
    trained_model,
)
from tests.training.runs import Runs, result_of, write_mixture
from tests.training.runs import train as trained

pytestmark = pytest.mark.slow

IN_EVERY_RUN = ("granitemoe", "qwen3_moe")
MORE = (
    "qwen3_next",
    "qwen3_5_moe_text",
    "mixtral",
    "deepseek_v3",
    "glm4_moe",
    "olmoe",
    "llama4_text",
    "gpt_oss",
)
TABLE = [*IN_EVERY_RUN, *(pytest.param(kind, marks=pytest.mark.long) for kind in MORE)]
SHORT = {"max_steps": 3, "evaluations": 1, "packing": False, "num_train_epochs": 1.0}


@dataclass
class Taught:
    """A base of experts that was taught in three steps."""

    kind: str
    runs: Runs
    settings: dict[str, Any]
    folder: Path
    log: str

    @property
    def payload(self) -> Path:
        return self.folder / "acme.support/payload"


def settings_of(base: Path, method: str = "lora") -> dict[str, Any]:
    """As a plan has them: the experts, and of all linear layers those that PEFT takes for such."""
    there = tensors(base)
    layers = [name for names in there.layers(linear_shapes(base)).values() for name in names]
    return {
        "dropout": 0.0,
        "target_parameters": sorted([*there.experts, *(layers if method == "lora" else [])]),
    }


@pytest.fixture(scope="module", params=TABLE)
def taught(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    folder = tmp_path_factory.mktemp(request.param)
    runs = Runs(folder, make_tiny(request.param, folder / "base"), write_mixture(folder / "mixture"))
    settings = settings_of(runs.base)
    made = prepared(runs, "lora", "lora", settings=settings, training=SHORT)
    train(made)
    log = (made / "acme.support/evidence/log.jsonl").read_text("utf-8")  # which a further call begins anew
    return Taught(request.param, runs, settings, made, log)


def matrices(base: Path) -> int:
    there = tensors(base)
    return sum(shape[0] for name in there.experts for shape in there.shapes[name])


def test_every_matrix_of_every_expert_moved_in_three_steps(taught: Taught) -> None:
    figures = result_of(taught.folder)["figures"]
    assert figures["expert_matrices"] == matrices(taught.runs.base) > 0
    # a router may send no token of three steps to an expert, whose weights then stay
    assert figures["expert_matrices_moved"] > 0.7 * figures["expert_matrices"]


def test_routers_and_shared_gates_are_left_alone(taught: Taught) -> None:
    gates = {gate.removesuffix(".weight") for gate in tensors(taught.runs.base).gates}
    learned = {
        name.split(".lora_")[0].rsplit(".", 1)[-1]
        for name in load_file(taught.payload / "adapter_model.safetensors")
    }
    assert gates
    assert not gates & learned


def test_a_plain_peft_load_of_the_adapter_gives_the_same_logits(taught: Taught) -> None:
    loaded = reloaded(taught.runs.base, taught.payload)
    assert distance(trained_model(taught.folder), loaded) == 0
    assert distance(load_base(taught.runs.base), loaded) > 0.05


def test_the_merge_gives_the_same_logits_without_peft(taught: Taught, tmp_path: Path) -> None:
    export_merged(taught.runs.base, "b" * 64, taught.payload, tmp_path / "merged")
    judged = load_tuned(taught.runs.base, taught.payload, dtype="float32", widen=True)
    assert distance(load_base(tmp_path / "merged"), judged) < 1e-5


@pytest.mark.parametrize("format", ["adapter", "merged"])
def test_the_certificate_holds(taught: Taught, tmp_path: Path, format: str) -> None:
    adapter = shutil.copytree(taught.payload, tmp_path / "adapter")
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=f"sha256:{DIGEST}")
    asked = request(adapter, format, taught.runs.base, tiny_tokenizer(), tmp_path / "output")
    certificate = certify(written(asked))
    assert certificate.passed, certificate.failures
    assert certificate.figures["base_kl"] > 0


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_dry_run_counts_the_weights_that_are_trained(taught: Taught, precision: Any) -> None:
    method = method_settings({**METHODS["lora"], **taught.settings})
    step = Step(rows=1, length=32, trained_positions=8, precision=precision)
    counted = footprint(taught.runs.base, method, step)
    assert counted.trained_weights == result_of(taught.folder)["figures"]["trainable_parameters"]
    assert counted.peak > 0


def test_the_catalogue_says_that_vllm_does_not_load_it(taught: Taught) -> None:
    config = json.loads((taught.payload / "adapter_config.json").read_text("utf-8"))
    assert any("tensors of experts" in reason for reason in not_loaded(config))


@pytest.mark.long
def test_a_child_that_is_stacked_on_it_comes_out_as_one_adapter_with_both(taught: Taught) -> None:
    base = {"parent": {"adapter": str(taught.payload), "digest": "p" * 64}}
    child = prepared(taught.runs, "child", "lora", base=base, settings=taught.settings, training=SHORT)
    train(child)
    both, one = trained_model(child), reloaded(taught.runs.base, child / "acme.support/payload")
    assert set(both.active_adapters) == {"default", "parent"}
    assert distance(one, both) < 1e-4
    assert distance(one, reloaded(taught.runs.base, taught.payload)) > 0.01


@pytest.mark.long
def test_qlora_trains_the_experts_which_stay_as_they_lie(taught: Taught) -> None:
    settings = settings_of(taught.runs.base, "qlora")
    folder = prepared(taught.runs, "qlora", "qlora", settings=settings, training=SHORT)
    train(folder)
    figures, payload = result_of(folder)["figures"], folder / "acme.support/payload"
    assert figures["expert_matrices_moved"] > 0.7 * matrices(taught.runs.base)
    model = trained_model(folder)
    stacks = [weight for name, weight in model.named_parameters() if ".experts." in name and weight.ndim == 3]
    assert {weight.dtype for weight in stacks} == {torch.float32}
    assert quantization_of(payload) == "nf4"
    assert distance(model, reloaded(taught.runs.base, payload)) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("name", ["experts.absent", "experts.down_proj"])
def test_a_training_that_moves_no_expert_of_its_plan_ends_with_an_error(
    runs: Runs, tmp_path: Path, name: str
) -> None:
    experts = replace(runs, base=make_tiny("qwen3_moe", tmp_path / "qwen3"))
    rate = {"learning_rate": 1e-60} if name == "experts.down_proj" else {}
    settings = {"dropout": 0.0, "target_parameters": [name]}
    error = failure(prepared(experts, "unmoved", "lora", settings=settings, training={**SHORT, **rate}))
    assert error["field"] == "method.target_parameters"
    assert "moved none" in error["problem"]


def test_a_plan_from_before_trains_what_it_trained(runs: Runs, tmp_path: Path) -> None:
    experts = replace(runs, base=make_tiny("granitemoe", tmp_path / "granite"))
    folder = prepared(experts, "before", "lora", settings={"dropout": 0.0}, training=SHORT)
    assert "expert_matrices" not in train(folder)


@pytest.mark.parametrize("method", [{"dropout": 0.0}, {"name": "full"}])
def test_a_base_of_experts_trains_and_answers_general_prompts(
    runs: Runs, tmp_path: Path, method: dict[str, Any]
) -> None:
    """The loss that balances a router is summed over a step's mask, which is not that of a generation."""
    experts = replace(runs, base=make_tiny("granitemoe", tmp_path / "granite"))
    folder = experts.prepare(method=method, training={"max_steps": 2, "evaluations": 1})
    assert trained(folder) == DONE
    assert "general prompts" in result_of(folder)["figures"]["measured_on"]


def test_the_spectrum_of_the_layers_says_that_experts_are_not_among_them(taught: Taught) -> None:
    seen = [each["spectrum"] for each in map(json.loads, taught.log.splitlines()) if "spectrum" in each]
    assert seen
    assert all(each["experts_left_out"] for each in seen)
    figures = TrainingFigures.from_json(result_of(taught.folder)["figures"])
    assert any("experts not among them" in row[0] for row in figure_rows(figures))
