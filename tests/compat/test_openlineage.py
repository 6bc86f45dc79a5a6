"""Dagster's lineage in an OpenLineage backend, by the listener and the configuration that the page names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from tests.e2e.project import write_project
from tests.e2e.workshop import Workshop

pytestmark = pytest.mark.slow
PAGE = Path(__file__).resolve().parents[2] / "docs" / "audit.md"
SHOWN = ("declaration", "general_corpus", "base_model", "task_dataset")


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A backend that is a file, a JSON a line."""
    file = tmp_path / "events.jsonl"
    for name, value in {"TYPE": "file", "LOG_FILE_PATH": str(file), "APPEND": "true"}.items():
        monkeypatch.setenv(f"OPENLINEAGE__TRANSPORT__{name}", value)
    return file


@pytest.fixture
def instance(tmp_path: Path, backend: Path) -> Iterator[dg.DagsterInstance]:
    """One whose dagster.yaml is that of the page."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    [shown] = re.findall(r"```yaml\n(event_log_storage:.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    content = yaml.safe_load(shown)
    runs = home / "history" / "runs"
    content["event_log_storage"]["config"]["wrapped"]["config"]["base_dir"] = str(runs)
    (home / "dagster.yaml").write_text(yaml.safe_dump(content), "utf-8")
    with dg.DagsterInstance.from_config(str(home)) as found:
        yield found


def test_each_asset_starts_and_completes_in_the_backend(
    tmp_path: Path, tiny_model_folder: Path, instance: dg.DagsterInstance, backend: Path
) -> None:
    shop = Workshop(write_project(tmp_path / "project", tiny_model_folder), instance)
    assert shop.materialize("acme.places", *SHOWN).success
    events: list[dict[str, Any]] = list(map(json.loads, backend.read_text("utf-8").splitlines()))
    for asset in SHOWN:
        of_it = [event["eventType"] for event in events if names(event) == asset]
        assert {"START", "COMPLETE"} <= set(of_it), (asset, events)
    namespaces = {event["job"]["namespace"] for event in events}
    assert namespaces == {"ft-dagster"}


def names(event: dict[str, Any]) -> str:
    """The asset that an event is of."""
    return str(event["job"]["name"]).rpartition("/")[2]
