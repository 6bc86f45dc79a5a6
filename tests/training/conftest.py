"""Fixtures: a small mixture with runs over it, and the trainer as the program it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.training.methods import base
from tests.once import made_once
from tests.programs import RunningProgram
from tests.training.runs import Runs, train, write_mixture


@pytest.fixture
def runs(tmp_path: Path, tiny_model_folder: Path) -> Runs:
    return Runs(tmp_path, tiny_model_folder, write_mixture(tmp_path / "mixture"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """The run folder of a training as `runs.prepare()` says it, for all workers; not to be changed."""

    def make(folder: Path) -> None:
        assert train(Runs(folder, tiny_model_folder, write_mixture(folder / "mixture")).prepare()) == 0

    return made_once(tmp_path_factory, "trained", make) / "run"


@pytest.fixture
def start() -> Callable[..., RunningProgram]:
    """Start the trainer as the launcher does."""
    return partial(RunningProgram, "training")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders from which a base was loaded."""
    found: list[Path] = []
    honest = base.load_base

    def noted(folder: Path, *given: Any, **options: Any) -> Any:
        found.append(folder)
        return honest(folder, *given, **options)

    monkeypatch.setattr(base, "load_base", noted)
    return found
