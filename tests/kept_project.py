"""The project of version 0.1 that tests/compat keeps, copied and asked by the command line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app

OLD_PROJECT = Path(__file__).resolve().parent / "compat" / "store_0_1"


def copied_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Below `folder`, with nothing of Dagster or of another project in the environment."""
    for name in [name for name in os.environ if name.startswith(("DAGSTER_", "FT_DAGSTER"))]:
        monkeypatch.delenv(name)
    return shutil.copytree(OLD_PROJECT, folder / "project")


def answer(project: Path, *words: str) -> Any:
    """What a command says; parsed with --json."""
    done = CliRunner().invoke(app, ["--project", str(project), *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if "--json" in words else done.stdout
