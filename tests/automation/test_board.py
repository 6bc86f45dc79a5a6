"""The board `fleet`: all variants' states, reported by the sensor where something changed."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_dagster.assets.fleet import SHOWN
from ft_dagster.assets.partitions import GRAPH
from ft_dagster.automation import board
from ft_dagster.automation.board import show_board
from ft_dagster.automation.fleet_table import open_fleet
from ft_dagster.build import default_resources as resources
from ft_dagster.definitions import defs
from ft_dagster.report.states import ORDER
from ft_dagster.settings import load_settings
from tests.automation.declarations import NOON, declare, ticked
from tests.fleet.fleets import changed
from tests.instances import new_instance
from tests.present import present
from tests.releases import adapter, release

pytestmark = pytest.mark.slow
KEY = dg.AssetKey("fleet")
MINUTE = timedelta(minutes=1)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with new_instance() as made:
        yield made


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for key in ("acme.never", "acme.released", "globex.gone"):
        declare(tmp_path, key)
    declare(tmp_path, "globex.wrong", objectiv="x")
    return tmp_path


def reported(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    """The metadata of each report, the newest first."""
    events = instance.fetch_materializations(KEY, limit=20).records
    found = (present(event.asset_materialization).metadata for event in events)
    return [{name: value.value for name, value in metadata.items()} for metadata in found]


def test_it_is_reported_once_a_change_and_not_each_minute(
    project: Path, instance: dg.DagsterInstance
) -> None:
    settings = load_settings(project)

    def look(minutes: float) -> bool:
        ticked(project, instance, NOON + minutes * MINUTE)
        return show_board(instance, open_fleet(instance, settings), settings, NOON + minutes * MINUTE, GRAPH)

    assert look(0)
    assert not look(1)
    assert not look(60)  # nothing changed
    declare(project, "acme.new")
    assert look(61)
    (project / "tenants/globex/gone.yaml").unlink()
    assert not look(62)  # too soon
    assert look(72)
    assert not look(90)


def test_its_page_has_a_sentence_counts_and_all_rows_retired_and_broken_ones_too(
    project: Path, instance: dg.DagsterInstance
) -> None:
    settings = load_settings(project)
    release(settings.open_store(), "acme.released", adapter())
    ticked(project, instance, NOON)
    (project / "tenants/globex/gone.yaml").unlink()
    ticked(project, instance, NOON + MINUTE)
    assert show_board(instance, open_fleet(instance, settings), settings, NOON, GRAPH)
    (metadata,) = reported(instance)
    assert next(iter(metadata)) == "summary"
    assert metadata["summary"] == (
        "**4 variants: 1 broken, 1 stale, 1 never trained, 1 retired.**\n\n"
        "Next: globex.wrong: Mend the cause that is named."
    )
    counted = {state: metadata[f"{state} variants"] for state in ORDER if metadata[f"{state} variants"]}
    assert counted == {"broken": 1, "stale": 1, "never trained": 1, "retired": 1}
    rows = [record.data for record in metadata["variants"].records]
    assert {*rows[0]} == {*SHOWN}
    assert [(str(row["variant"]).replace("\u200b", ""), row["state"]) for row in rows] == [
        ("globex.wrong", "broken -"),
        ("acme.released", "stale v1"),
        ("acme.never", "never trained -"),
        ("globex.gone", "retired -"),
    ]
    assert "objectiv" in rows[0]["cause"]


def test_the_sensor_reports_it_and_a_change_that_a_look_found(
    project: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "EVERY", timedelta(0))
    sensor = defs.get_repository_def().get_sensor_def("due_retrains")
    settings = load_settings(project)
    with dg.build_sensor_context(instance=instance, resources=resources(str(project))) as context:
        sensor.evaluate_tick(context)
        assert len(reported(instance)) == 1
        sensor.evaluate_tick(context)
        assert len(reported(instance)) == 1
        news = {"acme.never": [changed(datetime.now(UTC))]}
        assert open_fleet(instance, settings).set_news(news, lambda state: None) == ["acme.never"]
        sensor.evaluate_tick(context)
    assert len(reported(instance)) == 2


def test_it_is_an_asset_of_the_group_fleet_that_no_run_makes() -> None:
    graph = defs.resolve_asset_graph()
    node = graph.get(KEY)
    assert (node.group_name, node.is_executable, node.is_partitioned) == ("fleet", False, False)
    assert node.description
