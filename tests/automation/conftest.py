"""An instance, and a project in which nothing is spread: what is due is asked for at once."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.automation.retries import RETRIES
from tests.automation.ticks import settings
from tests.instances import new_instance


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.long)])
def instance(request: pytest.FixtureRequest) -> Iterator[dg.DagsterInstance]:
    """In files, then in a database of a real server."""
    if request.param == "sqlite":
        with new_instance(RETRIES) as made:
            yield made
        return
    address = request.getfixturevalue("postgres").new_database()
    storage = {"storage": {"postgres": {"postgres_url": address}}}
    with dg.instance_for_test(overrides=storage | RETRIES) as made:
        yield made


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tenants").mkdir()
    settings(tmp_path, spread_hours=0)
    return tmp_path
