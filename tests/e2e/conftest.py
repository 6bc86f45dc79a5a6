from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.e2e.project import write_project
from tests.e2e.workshop import Workshop
from tests.finished import copied, copied_workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, finished_project: Path) -> Iterator[Workshop]:
    """A project whose acme.places has gone through the whole chain once."""
    with copied_workshop(finished_project, tmp_path_factory.mktemp("workshop")) as shop:
        yield shop


@pytest.fixture
def released(finished_project: Path, tmp_path: Path) -> Iterator[Workshop]:
    """A copy of that project, for a test alone; in its instance nothing has run yet."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield Workshop(copied(finished_project, tmp_path / "released"), instance)


@pytest.fixture
def fresh(tmp_path: Path, tiny_model_folder: Path) -> Iterator[Workshop]:
    """A project on which nothing has run yet."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield Workshop(write_project(tmp_path / "project", tiny_model_folder), instance)
