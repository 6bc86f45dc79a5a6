"""A method that may be declared is known wherever methods are told apart: a failure names the table."""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args

import pytest

from ft_dagster.planning.cost.training_cost import UTILIZATION
from ft_dagster.planning.methods.defaults import EPOCHS, LEARNING_RATES
from ft_dagster.planning.methods.question import METHODS as RANKED
from ft_dagster.planning.methods.rules import USUAL
from ft_dagster.spec.variant import METHOD_SETTINGS, MethodName
from ft_dagster.training.contract import method_settings
from ft_dagster.training.methods import METHODS as TRAINED
from ft_dagster.training.methods import method_of

NAMES = get_args(MethodName)
TABLES: dict[str, Collection[str]] = {
    "spec/variant.py: METHOD_SETTINGS": METHOD_SETTINGS.keys() - {"auto"},
    "training/methods/__init__.py: METHODS": TRAINED,
    "planning/methods/defaults.py: LEARNING_RATES": LEARNING_RATES,
    "planning/methods/defaults.py: EPOCHS": EPOCHS,
    "planning/methods/question.py: METHODS": RANKED,
    "planning/methods/rules.py: USUAL": USUAL,
    "planning/cost/training_cost.py: UTILIZATION": UTILIZATION,
}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_of_methods_has_each_of_them(table: str) -> None:
    assert set(TABLES[table]) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_its_settings_and_its_file_are_found_by_its_name(name: str) -> None:
    method = method_of(method_settings({"name": name}))
    assert type(method).__name__ == TRAINED[name]
