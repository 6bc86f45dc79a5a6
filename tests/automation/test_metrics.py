"""The endpoint: what it says of a real instance, on loopback, and from what was read last."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from ft_dagster.automation.due import rebuild_fleet
from ft_dagster.automation.fleet_table import open_fleet
from ft_dagster.automation.metrics import read_figures, serve
from ft_dagster.automation.notify import open_outbox
from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.fleet.events.events import FleetEvent
from ft_dagster.fleet.metrics import FleetFigures, as_text
from ft_dagster.fleet.table.table_rows import FleetRow
from ft_dagster.settings import load_settings
from tests.automation.declarations import NOON, declare
from tests.fleet.fleets import variant
from tests.fleet.tables import row_of
from tests.instances import new_instance
from tests.kept_project import OLD_PROJECT
from tests.launch.helpers import wait_until
from tests.present import present

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("DAGSTER_", "FT_DAGSTER"))]:
        monkeypatch.delenv(name)
    folder = shutil.copytree(OLD_PROJECT, tmp_path / "project")
    settings = folder / "ft_dagster.yaml"
    host = {"gpus": [], "cpu_slots": 2, "lock_folder": str(tmp_path / "locks")}
    more = f"host: {json.dumps(host)}\nnotifications: {{targets: {{ops: {{file: x.jsonl}}}}}}\n"
    kept = [line for line in settings.read_text("utf-8").splitlines() if not line.startswith(("host:", " "))]
    settings.write_text("\n".join([*kept, more]))
    return folder


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with new_instance() as made:
        yield made


def samples(text: str) -> dict[tuple[str, ...], float]:
    """(name, values of its labels in order of their names) -> value."""
    families = text_string_to_metric_families(text)
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_figures_are_those_of_store_table_and_instance(project: Path, instance: dg.DagsterInstance) -> None:
    declare(project, "acme.broken", objectiv="x")
    settings = load_settings(project)
    rebuild_fleet(instance, settings)
    table = open_fleet(instance, settings)
    gone = FleetRow(variant("globex.gone", retired=True, failures=2), "", NOON)
    table.put([gone, row_of(table, "acme.places").known(failures=1)])
    for status in (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS):
        instance.add_run(dg.DagsterRun("variant_chain", tags={"ft/tenant": "acme"}, status=status))
    late = FleetEvent("run_failed", "acme.places", "2026-03-02T12:00:00+00:00", "run 1", "it failed")
    open_outbox(instance, settings).put([late], {late.id: ["ops", "no-more"]}, datetime.now(UTC))
    text = as_text(read_figures(instance, settings))
    found = samples(text)
    assert found["ft_dagster_trainings_total", "passed", "acme"] > 0
    assert found["ft_dagster_cost_hours_total", "training", "globex"] > 0
    assert found["ft_dagster_variants", "broken"] == 1
    assert sum(value for (name, *_), value in found.items() if name == "ft_dagster_variants") == 6
    assert found["ft_dagster_runs", "queued", "acme"] == found["ft_dagster_runs", "in_progress", "acme"] == 1
    assert found["ft_dagster_devices", "free"] == 2
    assert (found["ft_dagster_failures", "acme"], found["ft_dagster_failures", "globex"]) == (1, 0)
    assert found["ft_dagster_events_waiting", "ops"] == 1
    assert ("ft_dagster_events_waiting", "no-more") not in found  # nobody declares it


def test_the_command_serves_on_loopback_and_prints_once(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FT_DAGSTER_PROJECT", str(project))  # which opening the instance sets
    command = ["--project", str(project), "metrics"]
    once = CliRunner().invoke(app, [*command, "--once"], catch_exceptions=False)
    assert samples(once.stdout)["ft_dagster_trainings_total", "passed", "acme"] > 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("ft-dagster")
    serving = subprocess.Popen([program, *command, "--port", str(port)], stderr=subprocess.PIPE, text=True)
    try:
        assert f"http://127.0.0.1:{port}/metrics" in present(serving.stderr).readline()

        def text() -> str | None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                    return str(answer.read().decode())
            except OSError:
                return None

        wait_until(text)
        assert samples(present(text())).keys() == samples(once.stdout).keys()
        with pytest.raises(UserError, match="cannot listen there"):
            CliRunner().invoke(app, [*command, "--port", str(port)], catch_exceptions=False)
    finally:
        serving.kill()
        serving.communicate()


def test_a_reading_that_fails_ends_no_serving() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    scraped, said = list[str](), list[str]()

    def read() -> FleetFigures:
        if not said and not scraped:
            scraped.append("")  # the first succeeds
            return FleetFigures()
        if not said:
            raise sqlite3.OperationalError("database is locked")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            scraped.append(answer.read().decode())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serve(read, "127.0.0.1", port, 0.0, said.append)
    assert samples(scraped[-1])["ft_dagster_read_failed",] == 1
    assert said == ["could not be read anew: database is locked"]
