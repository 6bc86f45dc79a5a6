"""A project whose acme.places went through the whole chain and was released, seen by Python alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.finished import copied

KEY = VariantKey("acme", "places")


@pytest.fixture(scope="session")
def chained(tmp_path_factory: pytest.TempPathFactory, finished_project: Path) -> Workspace:
    folder = copied(finished_project, tmp_path_factory.mktemp("chained") / "project")
    lines: list[str] = []
    return Workspace(load_settings(folder), KEY, RunOf("test", "test", lines.append))
