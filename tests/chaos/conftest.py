"""Patients that are ended whatever a test does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.patients import Patient
from tests.export.conftest import make_adapter, make_request

__all__ = ["make_adapter", "make_request"]

Admit = Callable[..., Patient]


@pytest.fixture
def admit() -> Iterator[Admit]:
    """Start a program: `admit("training", run_folder)`."""
    patients: list[Patient] = []

    def start(program: str, run_folder: Path, **options: float) -> Patient:
        patients.append(Patient(program, run_folder, **options))
        return patients[-1]

    yield start
    for patient in patients:
        patient.rescue()
