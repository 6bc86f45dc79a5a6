"""Patients that are ended whatever a test does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.disturbed_runs import Admit, DisturbedRun
from tests.export.fixtures import make_adapter, make_request

__all__ = ["make_adapter", "make_request"]


@pytest.fixture
def admit() -> Iterator[Admit]:
    """Start a program: `admit("training", run_folder)`."""
    disturbed_runs: list[DisturbedRun] = []

    def start(program: str, run_folder: Path, **options: Any) -> DisturbedRun:
        disturbed_runs.append(DisturbedRun(program, run_folder, **options))
        return disturbed_runs[-1]

    yield start
    for disturbed in disturbed_runs:
        disturbed.rescue()
