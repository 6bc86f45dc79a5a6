"""A second adapter above a parent's: it learns with the parent active, and both come out as one adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ft_dagster.training import checkpoints
from tests.long import mostly_long
from tests.training.methods.taught import (
    METHODS,
    distance,
    failure,
    habit,
    load_base,
    prepared,
    reloaded,
    train,
    trained_model,
    trainer_of,
)
from tests.training.runs import Runs, payload_bytes, result_of

pytestmark = pytest.mark.slow

ATTENTION = {"rank": 6, "alpha": 9.0, "use_rslora": True, "target_modules": ["q_proj", "v_proj", "down_proj"]}
CHILD = {"target_modules": ["q_proj", "up_proj"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Runs:
    folder = tmp_path_factory.mktemp("stacking")
    return Runs(folder, tiny_model_folder, habit(folder / "mixture"))


@pytest.fixture(scope="module")
def parent(runs: Runs) -> Path:
    """The payload of a trained rsLoRA on some of the layers, with dropout."""
    folder = prepared(
        runs, "parent", "lora", settings=ATTENTION, mixture=str(habit(runs.folder / "p", (7, 8)))
    )
    train(folder)
    return folder / "acme.support/payload"


def stacked(runs: Runs, parent: Path, name: str, method: str = "lora", **changes: Any) -> Path:
    base = {"parent": {"adapter": str(parent), "digest": "p" * 64}}
    return prepared(runs, name, method, base=base, **{"settings": CHILD, **changes})


@pytest.fixture(scope="module", params=mostly_long(["lora", "qlora", "lora_8bit"], ["qlora"]))
def trained(request: pytest.FixtureRequest, runs: Runs, parent: Path) -> Path:
    folder = stacked(runs, parent, f"child-{request.param}", request.param)
    train(folder)
    return folder


def test_it_begins_where_the_parent_ended(runs: Runs, parent: Path) -> None:
    _, trainer = trainer_of(stacked(runs, parent, "untrained"))
    assert distance(trainer.model.eval(), reloaded(runs.base, parent)) < 1e-6
    assert distance(trainer.model.eval(), load_base(runs.base)) > 0.1


def test_base_parent_and_child_equal_the_base_with_the_one_adapter(trained: Path, runs: Runs) -> None:
    both = trained_model(trained)
    assert set(both.active_adapters) == {"default", "parent"}
    # int8 rounds activations as well: a last bit can become a step of 1/127 of a row's largest value.
    tolerance = 1e-2 if trained.name.endswith("8bit") else 1e-5
    assert distance(reloaded(runs.base, trained / "acme.support/payload"), both) < tolerance


def test_the_child_learned_something_of_its_own(trained: Path, runs: Runs, parent: Path) -> None:
    figures = result_of(trained)["figures"]
    assert figures["validation_loss_best"] < figures["validation_loss_first"] - 0.1
    assert distance(reloaded(runs.base, trained / "acme.support/payload"), reloaded(runs.base, parent)) > 0.1


def test_training_leaves_the_parent_bit_identical(runs: Runs, parent: Path) -> None:
    _, trainer = trainer_of(stacked(runs, parent, "in-hand", training={"weight_decay": 0.1}))
    trainer.train()
    beneath = {n: p for n, p in trainer.model.named_parameters() if ".parent." in n}
    on_disk = load_file(parent / "adapter_model.safetensors")
    assert {n.replace(".parent", "") for n in beneath} == on_disk.keys()
    for name, parameter in beneath.items():
        assert not parameter.requires_grad
        assert torch.equal(parameter, on_disk[name.replace(".parent", "")])


def test_the_one_adapter_is_a_plain_lora_of_both_ranks(trained: Path) -> None:
    payload = trained / "acme.support/payload"
    config = json.loads((payload / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (10, 10, False)
    assert config["target_modules"] == ["down_proj", "q_proj", "up_proj", "v_proj"]
    tensors = load_file(payload / "adapter_model.safetensors")
    assert len(tensors) == 2 * 4 * 2  # A and B, layers of the model, kinds of layer
    only_parent = next(t for n, t in tensors.items() if "v_proj.lora_A" in n)
    assert only_parent[:6].any()
    assert not only_parent[6:].any()


def test_its_checkpoints_hold_the_new_adapter_alone(trained: Path) -> None:
    for checkpoint in checkpoints.complete(trained / "acme.support/checkpoints"):
        tensors = load_file(checkpoint.folder / "adapter_model.safetensors")
        assert not [name for name in tensors if "v_proj" in name]
        assert not (checkpoint.folder / "parent").exists()


def test_resumed_equals_uninterrupted(trained: Path) -> None:
    member = trained / "acme.support"
    whole = payload_bytes(trained)
    checkpoints.discard(checkpoints.complete(member / "checkpoints")[-1].folder)
    (member / "result.json").unlink()
    assert train(trained)["resumed_from"]
    assert payload_bytes(trained) == whole


def test_a_stacked_adapter_is_a_parent_again(runs: Runs, parent: Path) -> None:
    child = stacked(runs, parent, "second")
    train(child)
    third = stacked(runs, child / "acme.support/payload", "third")
    train(third)
    payload = third / "acme.support/payload"
    assert json.loads((payload / "adapter_config.json").read_text())["r"] == 14
    assert distance(reloaded(runs.base, payload), trained_model(third)) < 1e-5


def changed(parent: Path, folder: Path, **settings: Any) -> Path:
    """A copy of the parent with another configuration."""
    shutil.copytree(parent, folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return folder


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"trainable_token_indices": [3]}, "token rows"),
        ({"modules_to_save": ["lm_head"]}, "wholly trained"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, "prompt_tuning"),
    ],
)
def test_a_parent_that_does_not_add_up_is_refused(
    runs: Runs, parent: Path, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    other = changed(parent, tmp_path / "other", **settings)
    error = failure(stacked(runs, other, f"refused-{words.replace(' ', '-')}"))
    assert (error["field"], error["file"]) == ("base_model.parent_adapter", str(other))
    assert words in error["problem"]
    assert "fold" in error["fix"]


def test_a_whole_model_is_no_parent_to_stack_on(runs: Runs) -> None:
    error = failure(stacked(runs, runs.base, "whole"))
    assert error["field"] == "base_model.parent_adapter"
    assert "is not an adapter" in error["problem"]


def test_a_dora_child_is_refused(runs: Runs, parent: Path) -> None:
    error = failure(stacked(runs, parent, "dora-child", settings={"use_dora": True}))
    assert "DoRA" in error["problem"]
    assert "fold" in error["fix"]


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_learned_prompts_do_not_stack(runs: Runs, parent: Path, method: str) -> None:
    error = failure(stacked(runs, parent, f"{method}-child", method, settings=METHODS[method]))
    assert error["field"] == "base_model.parent_adapter"
    assert method in error["problem"]


@pytest.mark.parametrize("wrong", ["shape", "layer"])
def test_a_parent_of_another_base_is_refused(runs: Runs, parent: Path, tmp_path: Path, wrong: str) -> None:
    other = changed(parent, tmp_path / "other")
    tensors = load_file(other / "adapter_model.safetensors")
    if wrong == "shape":
        tensors = {name: t[:, :20] if "lora_A" in name else t for name, t in tensors.items()}
    else:
        tensors = {name.replace("layers.1.", "layers.9."): t for name, t in tensors.items()}
    save_file({n: t.contiguous() for n, t in tensors.items()}, other / "adapter_model.safetensors")
    error = failure(stacked(runs, other, f"misfit-{wrong}"))
    assert "does not fit this base model" in error["problem"]
