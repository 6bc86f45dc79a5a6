"""Starts of an adapter: each begins at the base, and its export is exact over the base as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from ft_dagster.training.watch.spectrum import spectrum
from tests.long import mostly_long
from tests.training.methods.taught import (
    METHODS,
    distance,
    failure,
    habit,
    load_base,
    prepared,
    reloaded,
    resume_earlier,
    train,
    trained_model,
    trainer_of,
)
from tests.training.runs import Runs, result_of

pytestmark = pytest.mark.slow
STARTS = ("gaussian", "orthogonal", "pissa", "olora")
OF_THE_BASE = ("pissa", "olora")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Runs:
    folder = tmp_path_factory.mktemp("starts")
    return Runs(folder, tiny_model_folder, habit(folder / "mixture"))


@pytest.fixture(scope="module", params=mostly_long(STARTS, ["pissa"]))
def trained(request: pytest.FixtureRequest, runs: Runs) -> Path:
    folder = prepared(runs, f"{request.param}-whole", request.param)
    train(folder)
    return folder


@pytest.mark.parametrize("start", STARTS)
def test_it_begins_at_the_base(start: str, runs: Runs) -> None:
    _, trainer = trainer_of(prepared(runs, f"{start}-untrained", start))
    assert distance(trainer.model.eval(), load_base(runs.base)) < 1e-5


def test_plain_peft_over_the_unchanged_base_gives_the_same_logits(trained: Path, runs: Runs) -> None:
    loaded = reloaded(runs.base, trained / "acme.support/payload")
    assert distance(loaded, trained_model(trained)) < 1e-5
    assert distance(loaded, load_base(runs.base)) > 0.1


def test_no_weight_of_the_base_is_changed(trained: Path, runs: Runs) -> None:
    kept = dict(load_base(runs.base).named_parameters())
    model = trained_model(trained)
    layers = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): weight
        for name, weight in model.named_parameters()
        if ".lora_" not in name
    }
    assert layers.keys() == kept.keys()
    assert all(torch.equal(layers[name], kept[name]) for name in kept)


def test_an_interrupted_training_equals_one_that_was_not(trained: Path) -> None:
    resume_earlier(trained)


def test_the_export_says_nothing_that_changes_a_base_when_it_is_loaded(trained: Path) -> None:
    config = json.loads((trained / "acme.support/payload/adapter_config.json").read_text())
    assert config["init_lora_weights"] is True
    twice = trained.name.partition("-")[0] in OF_THE_BASE
    assert config["r"] == METHODS["lora"]["rank"] * (2 if twice else 1)


@pytest.mark.parametrize("start", mostly_long(OF_THE_BASE, ["pissa"]))
def test_the_export_is_what_pefts_own_conversion_comes_to(start: Any, runs: Runs, tmp_path: Path) -> None:
    folder = prepared(runs, f"{start}-converted", start, settings={"dropout": 0.0})
    train(folder)
    ours = folder / "acme.support/payload"
    settings = METHODS[start]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        target_modules="all-linear",
        init_lora_weights=start,
    )
    theirs = get_peft_model(load_base(runs.base), config)
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(tmp_path / "initial")
    step = result_of(folder)["figures"]["best_step"]
    checkpoint = folder / f"acme.support/checkpoints/checkpoint-{step}/adapter_model.safetensors"
    weights = {
        name.replace(".weight", ".default.weight"): tensor for name, tensor in load_file(checkpoint).items()
    }
    missing = theirs.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    theirs.peft_config["default"].init_lora_weights = start
    converted = tmp_path / "converted"
    theirs.save_pretrained(converted, path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    loaded = PeftModel.from_pretrained(load_base(runs.base), converted).eval()
    assert distance(loaded, reloaded(runs.base, ours)) < 1e-5


def test_the_spectrum_is_of_what_was_learned_and_not_of_the_start(trained: Path, runs: Runs) -> None:
    """Against the difference of the two models' weights, and nothing before the first step."""
    name = "model.layers.0.self_attn.q_proj"
    layer = next(each for each in spectrum(trained_model(trained)) if each.name == name)
    tuned = reloaded(runs.base, trained / "acme.support/payload").merge_and_unload()
    learned = tuned.get_submodule(name).weight - load_base(runs.base).get_submodule(name).weight
    values = torch.linalg.svdvals(learned.detach().double())[: len(layer.values)]
    assert torch.tensor(layer.values) == pytest.approx(values.float(), rel=1e-3, abs=1e-4)
    start = trained.name.partition("-")[0]
    assert layer.rank == METHODS[start]["rank"] * (2 if start in OF_THE_BASE else 1)
    _, untrained = trainer_of(prepared(runs, f"{start}-spectrum", start))
    assert max(each.values[0] for each in spectrum(untrained.model)) < 1e-4


@pytest.mark.parametrize("start", OF_THE_BASE)
def test_the_start_is_pefts_own(start: Any, runs: Runs) -> None:
    _, trainer = trainer_of(prepared(runs, f"{start}-peft", start))
    config = LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8.0, init_lora_weights=start, target_modules="all-linear"
    )
    theirs = dict(get_peft_model(load_base(runs.base), config).named_parameters())
    drawn = {name: weight for name, weight in trainer.model.named_parameters() if ".default." in name}
    assert len(drawn) > 10
    for name, weight in drawn.items():
        assert torch.equal(weight, theirs[name].float()), name


@pytest.mark.parametrize("start", OF_THE_BASE)
def test_beneath_a_parent_that_stays_it_is_refused(start: str, runs: Runs, tmp_path: Path) -> None:
    parent = prepared(runs, f"{start}-parent", "lora", training={"max_steps": 2, "evaluations": 1})
    train(parent)
    above = {"parent": {"adapter": str(parent / "acme.support/payload"), "digest": "p" * 64}}
    error = failure(prepared(runs, f"{start}-child", start, base=above))
    assert error["field"] == "method.init_lora_weights"
    assert "parent_adapter: fold" in error["fix"]


@pytest.mark.parametrize(
    ("method", "settings", "problem"),
    [
        ("qlora", {"init_lora_weights": "pissa"}, "needs a base that is not quantized"),
        ("lora_8bit", {"init_lora_weights": "orthogonal"}, "needs a base that is not quantized"),
        ("dora", {"init_lora_weights": "olora"}, "does not go with use_dora"),
        ("lora", {"init_lora_weights": "orthogonal", "rank": 3}, "needs an even rank"),
    ],
)
def test_a_start_whose_export_would_not_be_exact_is_refused(
    method: str, settings: dict[str, Any], problem: str, runs: Runs
) -> None:
    error = failure(prepared(runs, f"{method}-refused", method, settings=settings))
    assert problem in error["problem"]
