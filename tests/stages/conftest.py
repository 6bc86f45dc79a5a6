"""A project whose acme.places went through the whole chain, and was released, by Python alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages.chain import run_chain
from ft_dagster.stages.release import release
from ft_dagster.stages.workspace import RunOf, Workspace
from tests.e2e.project import write_project

KEY = VariantKey("acme", "places")


@pytest.fixture(scope="session")
def chained(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Workspace:
    folder = write_project(tmp_path_factory.mktemp("chained") / "project", tiny_model_folder)
    lines: list[str] = []
    workspace = Workspace(load_settings(folder), KEY, RunOf("test", "test", lines.append))
    outcome = run_chain(workspace)
    assert outcome.error is None, outcome.error
    release(workspace)
    return workspace
