"""The settings of a method are one model, which planning fills in and the trainer reads."""

from __future__ import annotations

from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.methods import METHODS
from ft_dagster.methods.lora import LoraSettings
from ft_dagster.training.contract import method_settings
from ft_dagster.training.methods import taught_by


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_built_from_its_settings(name: str) -> None:
    assert taught_by(method_settings({"name": name})).name == name


@pytest.mark.parametrize(
    ("content", "field", "said"),
    [
        ({"name": "lorra"}, "method.name", "Known: full, lora"),
        ({}, "method.name", "Known: full, lora"),
        ({"name": "lora", "rank": 0}, "method.rank", "Settings of lora: name, rank"),
        ({"name": "qlora", "rnak": 8}, "method.rnak", "Settings of qlora: name, rank"),
        ({"name": "full", "rank": 8}, "method.rank", "Settings of full: name"),
        (
            {"name": "prompt_tuning", "num_virtual_tokens": 0},
            "method.num_virtual_tokens",
            "num_virtual_tokens",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_those_that_there_are(
    content: dict[str, Any], field: str, said: str
) -> None:
    with pytest.raises(UserError, match=said) as refused:
        method_settings(content)
    assert refused.value.field == field


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        LoraSettings().rank = 8  # type: ignore[misc]
