"""What a release log says and Dagster does not show is shown by the ticks that learn of its variant."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from ft_dagster.assets.partitions import GRAPH, Graph
from ft_dagster.assets.release import LOG_ENTRIES
from ft_dagster.automation.registry import RegistryCursor, register_changed
from ft_dagster.automation.shown_releases import PATIENCE, show_unshown
from ft_dagster.lineage.release import ReleaseRequest, promote, rollback
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import VariantKey
from tests.automation.declarations import declare, ticked
from tests.automation.ticks import DAY, HOUR, report_release
from tests.present import present
from tests.releases import adapter, release

pytestmark = pytest.mark.slow
KEY = VariantKey("acme", "support")


def two_versions(project: Path, instance: dg.DagsterInstance) -> None:
    """Released by runs, which showed them."""
    declare(project, str(KEY))
    for number in (1, 2):
        release(load_settings(project).open_store(), str(KEY), adapter(number), str(number) * 64)
        report_release(instance, str(KEY), entries=number)


def roll_back(project: Path) -> None:
    """And be killed before Dagster is told."""
    rollback(load_settings(project).open_store(), KEY.prefix, ReleaseRequest("worse", "ann"))


def events(instance: dg.DagsterInstance, graph: Graph = GRAPH) -> list[dg.AssetMaterialization]:
    """Of the variant's releases, the newest first."""
    asked = dg.AssetRecordsFilter(graph.key("release"), [str(KEY)])
    records = instance.fetch_materializations(asked, limit=20).records
    return [present(record.asset_materialization) for record in records]


def shown(
    project: Path, instance: dg.DagsterInstance, after: timedelta = HOUR, graph: Graph = GRAPH
) -> list[dg.AssetMaterialization]:
    """The events once the variant was learnt of then."""
    show_unshown(instance, load_settings(project).open_store(), KEY, datetime.now(UTC) + after, graph=graph)
    return events(instance, graph)


def test_a_rollback_that_nobody_showed_is_pushed_to_the_registry_once(
    project: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = list[str]()

    def push(settings: Settings, key: VariantKey, unserved_of: object) -> None:
        pushed.append(str(key))

    monkeypatch.setattr("ft_dagster.automation.registry.push_releases", push)
    two_versions(project, instance)
    settings, now, cursor = load_settings(project), datetime.now(UTC), RegistryCursor()

    def tick(at: datetime) -> None:
        nonlocal cursor
        ticked(project, instance, at)
        cursor = register_changed(instance, settings, cursor, at, GRAPH)

    tick(now)
    pushed.clear()
    roll_back(project)
    for later in (timedelta(minutes=1), HOUR, 2 * HOUR, 2 * DAY):
        tick(now + later)
    assert pushed == ["acme.support"]


def test_its_page_says_what_was_gone_back_to(project: Path, instance: dg.DagsterInstance) -> None:
    two_versions(project, instance)
    assert len(shown(project, instance)) == 2
    roll_back(project)
    newest = shown(project, instance)[0]
    said = str(newest.metadata["summary"].value)
    assert said.startswith("**Version 1 is in production: ann went back to it from version 2.**")
    assert (newest.metadata["version"].value, newest.metadata["production"].value) == (1, 1)
    assert newest.metadata[LOG_ENTRIES].value == 3
    assert newest.description == "rollback by ann: worse"
    assert len(shown(project, instance)) == 3


def test_who_wrote_an_entry_has_a_while_to_show_it(project: Path, instance: dg.DagsterInstance) -> None:
    two_versions(project, instance)
    roll_back(project)
    assert len(shown(project, instance, PATIENCE / 2)) == 2
    report_release(instance, str(KEY), entries=3)
    assert len(shown(project, instance)) == 3


def test_dagster_is_not_asked_again_of_a_log_that_it_is_known_to_show(
    project: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_versions(project, instance)
    now = datetime.now(UTC)
    ticked(project, instance, now + HOUR)
    asked = list[str]()

    def ask(instance: dg.DagsterInstance, key: str, graph: Graph) -> None:
        asked.append(key)

    monkeypatch.setattr("ft_dagster.automation.shown_releases.newest_event", ask)
    ticked(project, instance, now + 2 * HOUR)
    assert asked == []
    roll_back(project)
    ticked(project, instance, now + 3 * HOUR)
    assert asked == ["acme.support"]


def test_several_entries_that_nobody_showed_are_shown_by_one_event(
    project: Path, instance: dg.DagsterInstance
) -> None:
    two_versions(project, instance)
    roll_back(project)
    store, again = load_settings(project).open_store(), ReleaseRequest("the questions were wrong", "bob")
    promote(store, KEY.prefix, 2, again, force=True)
    newest, *others = shown(project, instance)
    assert str(newest.metadata["summary"].value).startswith("**Version 2 is in production: bob put it there.")
    assert len(others) == 2


def test_an_event_of_an_older_version_shows_what_was_written_before_it(
    project: Path, instance: dg.DagsterInstance
) -> None:
    declare(project, str(KEY))
    release(load_settings(project).open_store(), str(KEY), adapter())
    report_release(instance, str(KEY))
    assert len(shown(project, instance)) == 1


def test_a_variant_that_is_declared_no_longer_or_wrongly_is_looked_at_too(
    project: Path, instance: dg.DagsterInstance
) -> None:
    two_versions(project, instance)
    file, now = project / "tenants" / "acme" / "support.yaml", datetime.now(UTC)
    ticked(project, instance, now)
    roll_back(project)
    file.write_text("x: [\n")
    ticked(project, instance, now + HOUR)
    assert len(events(instance)) == 3
    promote(load_settings(project).open_store(), KEY.prefix, 2, ReleaseRequest("no", "bob"), force=True)
    file.unlink()
    ticked(project, instance, now + 2 * HOUR)
    ticked(project, instance, now + 3 * HOUR)
    assert len(events(instance)) == 4


def test_a_host_that_keeps_the_runs_is_shown_what_the_command_line_wrote_elsewhere(
    project: Path, instance: dg.DagsterInstance
) -> None:
    two_versions(project, instance)
    host = Graph(("models",))
    assert len(shown(project, instance, graph=host)) == 1
    assert len(shown(project, instance, graph=host)) == 1


def test_a_log_that_does_not_hold_stops_nobody(project: Path, instance: dg.DagsterInstance) -> None:
    two_versions(project, instance)
    roll_back(project)
    log = Path(load_settings(project).open_store().root) / KEY.prefix / "releases" / "000002.json"
    log.write_text("{")
    assert len(shown(project, instance)) == 2
