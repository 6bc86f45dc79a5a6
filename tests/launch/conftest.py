"""Real processes for the tests of leases and launchers, ended by pid whatever a test does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ft_dagster.launch.leases import Leases
from ft_dagster.launch.warm import choice
from tests.launch.helpers import PROGRAMS, slots
from tests.long import mostly_long
from tests.present import present


@pytest.fixture(autouse=True)
def programs_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROGRAMS), prepend=os.pathsep)
    monkeypatch.setenv(choice.IMPORTS, "[]")  # what these programs import is soon imported


@pytest.fixture(params=mostly_long(["plain", "warm"], ["warm"]))
def each_start(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[str]:
    """The test is made with programs that are started, and again with programs that are forked."""
    monkeypatch.setenv(choice.START, "auto" if request.param == "warm" else "off")
    with caplog.at_level("INFO", "ft_dagster.launch"):
        yield request.param
        assert "plain start" not in caplog.text


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start one of the programs with arguments; its output can be read."""
    started: list[subprocess.Popen[str]] = []

    def start_program(name: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, str(PROGRAMS / name), *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
        started.append(process)
        return process

    yield start_program
    for process in started:
        below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        for child in below:
            child.kill()
        process.wait()
        present(process.stdout).close()


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@pytest.fixture
def leases(locks: Path) -> Leases:
    """Three CPU slots."""
    return Leases(locks, slots(3), poll_seconds=0.02)
