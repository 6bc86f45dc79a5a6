import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.e2e.project import edit, write_project
from tests.e2e.workshop import Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Workshop]:
    """A project whose acme.places has gone through the whole chain once."""
    folder = write_project(tmp_path_factory.mktemp("project"), tiny_model_folder)
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Workshop(folder, instance)
        shop.first = shop.materialize("acme.places")
        shutil.copytree(folder, _as_released(folder))
        yield shop


def _as_released(project: Path) -> Path:
    """Where a project is kept as it was after that run."""
    return project.with_name(f"{project.name}-released")


@pytest.fixture
def released(workshop: Workshop, tmp_path: Path) -> Iterator[Workshop]:
    """A copy of that project, for a test alone; in its instance nothing has run yet."""
    folder = shutil.copytree(_as_released(workshop.folder), tmp_path / "released")
    locks = str(folder / "leases")
    edit(folder / "ft_dagster.yaml", lambda content: content["host"].update(lock_folder=locks))
    with dg.DagsterInstance.ephemeral() as instance:
        yield Workshop(folder, instance)


@pytest.fixture
def fresh(tmp_path: Path, tiny_model_folder: Path) -> Iterator[Workshop]:
    """A project on which nothing has run yet."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield Workshop(write_project(tmp_path / "project", tiny_model_folder), instance)
