from pathlib import Path
from typing import Any

import pytest

from ft_dagster.methods.layers import adapter_parameters
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.shapes import dimensions
from ft_dagster.training.contract import Base, method_settings
from ft_dagster.training.methods import taught_by
from tests.planning.llama import LLAMA_8B, facts, plan

SEVEN = LLAMA_8B["linear_shapes"]
FOUR = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.mark.parametrize(
    ("rank", "targets", "expected"),
    [
        (16, "all-linear", 41_943_040),
        (32, "all-linear", 83_886_080),
        (64, "all-linear", 167_772_160),
        (16, FOUR, 13_631_488),
        (64, FOUR, 54_525_952),
    ],
)
def test_adapter_parameters_of_llama_3_8b(rank: int, targets: list[str] | str, expected: int) -> None:
    assert adapter_parameters(SEVEN, rank, targets) == expected


def test_llama_3_8b_has_its_published_parameters() -> None:
    assert facts().parameters == 8_030_261_248


def test_dimensions_are_read_from_the_configuration(tiny_model_folder: Path) -> None:
    assert dimensions(tiny_model_folder) == (64, 2, 32, True)


@pytest.mark.parametrize(
    "method",
    [
        "full",
        {"name": "lora", "rank": 4},
        {"name": "lora", "rank": 4, "target_modules": ["q_proj", "v_proj"]},
        {"name": "lora", "rank": 4, "use_dora": True},
        {"name": "lora", "rank": 4, "use_rslora": True},
        "prompt_tuning",
        {"name": "prefix_tuning", "num_virtual_tokens": 7},
    ],
    ids=str,
)
def test_what_is_counted_is_what_the_trainer_trains(
    method: dict[str, Any] | str, tiny_facts: Facts, tiny_model_folder: Path
) -> None:
    settings = plan(method, tiny_facts)["method"]
    model = taught_by(method_settings(settings)).build(
        Base(folder=tiny_model_folder, digest="b" * 64), "fp32", 0
    )
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert method_settings(settings).trainable_parameters(tiny_facts) == trained


def test_new_rows_of_the_vocabulary_are_counted(tiny_facts: Facts, tiny_model_folder: Path) -> None:
    settings = plan({"name": "lora", "rank": 4}, tiny_facts)["method"]
    base = Base(folder=tiny_model_folder, digest="b" * 64, new_token_ids=(300, 301, 302))
    model = taught_by(method_settings(settings)).build(base, "fp32", 0)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert method_settings(settings).trainable_parameters(tiny_facts, new_tokens=3) == trained
