"""Fixtures: facts of the tiny model as it lies on disk, and trainings of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_dagster.model_files.weights import measure_weights, weight_files
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.planning.shapes import dimensions, linear_shapes
from tests.planning.llama import facts
from tests.planning.small import small_context
from tests.training.runs import Runs, write_mixture


@pytest.fixture(scope="session")
def tiny_facts(tiny_model_folder: Path) -> Facts:
    weights = measure_weights(tiny_model_folder, weight_files(tiny_model_folder))
    return facts(
        **dimensions(tiny_model_folder)._asdict(),
        linear_shapes=linear_shapes(tiny_model_folder),
        parameters=weights.parameters,
        base_bytes=weights.nbytes,
        max_length=48,
        bf16=False,
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> PlanContext:
    return small_context(tmp_path_factory.mktemp("small"))


@pytest.fixture
def runs(tmp_path: Path, tiny_model_folder: Path) -> Runs:
    return Runs(tmp_path, tiny_model_folder, write_mixture(tmp_path / "mixture"))
