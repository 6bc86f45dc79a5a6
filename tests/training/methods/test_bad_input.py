"""What a base model or a method cannot do is said before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.methods.taught import failure, habit, prepared
from tests.training.runs import Runs

LOW_RANK = ["lora", "qlora", "lora_8bit"]
PROMPTS = ["prompt_tuning", "prefix_tuning"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Runs:
    folder = tmp_path_factory.mktemp("bad")
    return Runs(folder, tiny_model_folder, habit(folder / "mixture"))


@pytest.mark.slow
@pytest.mark.parametrize("method", LOW_RANK)
def test_a_rank_above_the_smallest_dimension(runs: Runs, method: str) -> None:
    """Of the layer itself: quantized weights lie in another shape."""
    error = failure(prepared(runs, f"{method}-rank", method, settings={"rank": 33}))
    assert (error["field"], error["value"], error["fix"]) == ("method.rank", "33", "Use at most 32")


@pytest.mark.slow
@pytest.mark.parametrize("method", LOW_RANK)
def test_target_modules_that_match_nothing(runs: Runs, method: str) -> None:
    settings = {"target_modules": ["q_proj", "c_attn"]}
    error = failure(prepared(runs, f"{method}-targets", method, settings=settings))
    assert (error["field"], error["value"]) == ("method.target_modules", "'c_attn'")
    assert "down_proj" in error["fix"]


@pytest.mark.parametrize("method", [*LOW_RANK, *PROMPTS])
def test_a_setting_of_another_method(runs: Runs, method: str) -> None:
    error = failure(prepared(runs, f"{method}-setting", method, settings={"beta": 1}))
    assert error["field"] == "method.beta"
    assert method in error["fix"]


@pytest.mark.parametrize("method", PROMPTS)
@pytest.mark.parametrize("length", [0, -3, "many"])
def test_a_length_that_is_none(runs: Runs, method: str, length: object) -> None:
    settings = {"num_virtual_tokens": length}
    error = failure(prepared(runs, f"{method}-length-{length}", method, settings=settings))
    assert error["field"] == "method.num_virtual_tokens"


def test_prefix_tuning_with_gradient_checkpointing_would_lose_the_prefix(runs: Runs) -> None:
    training = {"gradient_checkpointing": True}
    error = failure(prepared(runs, "recomputed", "prefix_tuning", training=training))
    assert error["field"] == "training.gradient_checkpointing"
    assert "false" in error["fix"]
