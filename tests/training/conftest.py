"""Fixtures: a small mixture with runs over it, and the trainer as the program it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.programs import RunningProgram
from tests.training.runs import Runs, write_mixture


@pytest.fixture
def runs(tmp_path: Path, tiny_model_folder: Path) -> Runs:
    return Runs(tmp_path, tiny_model_folder, write_mixture(tmp_path / "mixture"))


@pytest.fixture
def start() -> Callable[..., RunningProgram]:
    """Start the trainer as the launcher does."""
    return partial(RunningProgram, "training")
