"""One module takes what Dagster does not promise: an upgrade of Dagster that moves it shows here."""

from pathlib import Path

from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.storage import tags
from dagster._daemon.controller import RELOAD_WORKSPACE_INTERVAL

from ft_dagster import dagster_private

ROOT = Path(__file__).resolve().parents[1]


def test_the_tags_are_those_that_dagster_writes() -> None:
    ours = {value for value in vars(dagster_private).values() if str(value).startswith("dagster/")}
    assert ours - {DATA_VERSION_TAG} <= set(map(str, vars(tags).values()))
    assert {DATA_VERSION_TAG, tags.PRIORITY_TAG, tags.WILL_RETRY_TAG} < ours


def test_code_servers_are_looked_at_as_often_as_dagster_does() -> None:
    assert dagster_private.RELOAD_SECONDS == RELOAD_WORKSPACE_INTERVAL
