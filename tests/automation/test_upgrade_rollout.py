"""An upgrade is rolled out by shares of the fleet: a tick asks for the canaries of an order and no other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml

from tests.automation.declarations import tick
from tests.automation.ticks import STATUS, run_of
from tests.kept_project import answer, copied_project

pytestmark = pytest.mark.slow
CANARY = "globex.strict"  # of four variants


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of 0.1, whose every variant this version would train again."""
    return copied_project(tmp_path, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("instance", ["sqlite"], indirect=True)
def test_an_order_as_it_is_printed_retrains_the_canary_once_and_no_other(
    project: Path, instance: dg.DagsterInstance
) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=1)
    assert tick(project, instance, soon) == []
    said = answer(project, "upgrade", "--plan", "--share", "0.25")
    with (project / "ft_dagster.yaml").open("a", encoding="utf-8") as settings:
        settings.write(said[said.index("fleet:") :])
    (order,) = yaml.safe_load((project / "ft_dagster.yaml").read_text("utf-8"))["fleet"]["orders"]
    assert order["variants"] == [CANARY]
    (request,) = tick(project, instance, soon)
    assert request.partition_key == CANARY
    run_of(instance, request, STATUS.SUCCESS)
    assert tick(project, instance, soon + timedelta(hours=1)) == []
