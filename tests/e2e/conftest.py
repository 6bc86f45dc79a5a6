from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.e2e.project import write_project
from tests.e2e.workshop import Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Workshop]:
    """A project whose acme.places has gone through the whole chain once."""
    folder = write_project(tmp_path_factory.mktemp("project"), tiny_model_folder)
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Workshop(folder, instance)
        shop.first = shop.materialize("acme.places")
        yield shop


@pytest.fixture
def fresh(tmp_path: Path, tiny_model_folder: Path) -> Iterator[Workshop]:
    """A project on which nothing has run yet."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield Workshop(write_project(tmp_path / "project", tiny_model_folder), instance)
