"""The fleet's pages as they are served: the answers of the commands, by this host's names alone."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient
from typer.testing import CliRunner

from ft_dagster.audit.kept_answers import folder_of, keep_answer
from ft_dagster.automation.fleet_now import FleetReader
from ft_dagster.automation.processes.fleet_routes import fleet_routes, is_own_name
from ft_dagster.automation.processes.instance import Launched, dagster_yaml, open_instance
from ft_dagster.automation.tags import TENANT, VARIANT
from ft_dagster.cli import app
from ft_dagster.cli.run_states import looked_at
from ft_dagster.fleet.live_page import FleetQuery, fleet_page
from ft_dagster.report.pages.live import as_live_html
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import VariantKey
from tests.automation.declarations import ticked
from tests.e2e.project import edit
from tests.instances import ORIGIN, new_instance
from tests.kept_project import OLD_PROJECT
from tests.long import mostly_long
from tests.s3_server import serve_s3

pytestmark = pytest.mark.slow
PAGES = ("/fleet", "/fleet/audit", "/fleet/acme.places", "/fleet/acme.places/report")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith(("DAGSTER_", "FT_DAGSTER"))]:
        monkeypatch.delenv(name)
    return load_settings(shutil.copytree(OLD_PROJECT, tmp_path / "project"))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with new_instance() as made:
        yield made


@pytest.fixture
def client(settings: Settings, instance: dg.DagsterInstance) -> TestClient:
    reader = FleetReader(instance, settings)
    return TestClient(Starlette(routes=fleet_routes(lambda: reader, "127.0.0.1")), "http://localhost:3000")


def printed(settings: Settings, *words: str) -> Any:
    done = CliRunner().invoke(app, ["--project", str(settings.project), *words, "--json"])
    return json.loads(done.stdout)


def test_the_page_has_the_states_verdicts_and_costs_of_the_commands(
    client: TestClient, settings: Settings
) -> None:
    page = client.get("/fleet").text
    for row in printed(settings, "status")["variants"]:
        assert row["variant"] in page
        assert f">{row['state']}</td>" in page
    costs = printed(settings, "cost")
    for row in [*costs["rows"], costs["total"]]:
        assert f"<td>{row['name']}</td><td>{row['trainings']}</td>" in page.replace("\n", "")


def test_a_variants_page_has_its_release_log_and_its_report(client: TestClient) -> None:
    page = client.get("/fleet/acme.places").text
    assert "in production" in page
    assert "rollback acme.places" in page
    assert "<h1>acme.places" in client.get("/fleet/acme.places/report").text


def kept_in(settings: Settings) -> list[Path]:
    """The store's files, but the index of digests that reading an old store makes, by pages and commands."""
    return sorted(file for file in (settings.project / "store").rglob("*") if "digests" not in file.parts)


@pytest.mark.parametrize("path", mostly_long(PAGES, every=4))
def test_nothing_is_changed_by_a_page(
    client: TestClient, instance: dg.DagsterInstance, settings: Settings, path: str
) -> None:
    store = kept_in(settings)
    assert store
    assert client.get(path).status_code == 200
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert client.request(method, path).status_code == 405
    assert kept_in(settings) == store
    assert instance.get_runs() == []
    assert list(instance.all_asset_keys()) == []


@pytest.mark.parametrize("path", mostly_long(PAGES, every=4))
def test_a_page_may_load_nothing_from_elsewhere_and_stand_in_no_frame(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]
    assert (headers["cache-control"], headers["cross-origin-resource-policy"]) == ("no-store", "same-origin")
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/", *PAGES])
def test_a_name_that_a_stranger_points_at_this_host_is_refused(client: TestClient, path: str) -> None:
    answer = client.get(path, headers={"host": "rebound.example:3000"}, follow_redirects=False)
    assert answer.status_code == 421
    assert "acme" not in answer.text


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *(("127.0.0.1:3000", True), ("localhost", True), ("LOCALHOST:3000", True), ("[::1]:3000", True)),
        *(("10.0.0.7:80", True), ("gpu-host:3000", True)),
        *(
            ("", False),
            ("evil.example", False),
            ("localhost.evil.example:3000", False),
            ("127.0.0.1.evil", False),
        ),
    ],
)
def test_a_host_is_known_by_an_address_or_a_name_of_its_own(host: str, own: bool) -> None:
    assert is_own_name(host, {"localhost", "gpu-host"}) is own


def test_the_root_leads_to_the_fleet_page(client: TestClient) -> None:
    for path in ("/", "/fleet/"):
        answer = client.get(path, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (307, "/fleet")


@pytest.mark.parametrize(
    "path", mostly_long(["/fleet/acme.nobody", "/fleet/x", "/fleet/acme.nobody/report"], every=3)
)
def test_what_is_not_there_is_said(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_an_answer_that_was_kept_is_listed_and_shown_and_no_other_file(
    client: TestClient, settings: Settings
) -> None:
    file = keep_answer(settings, "record", "ab" * 32, "<p>kept</p>")
    assert file.stat().st_mode & 0o777 == 0o600
    assert f"/fleet/audit/{file.name}" in client.get("/fleet/audit").text
    answer = client.get(f"/fleet/audit/{file.name}")
    assert answer.text == "<p>kept</p>"
    assert "sandbox" in answer.headers["content-security-policy"]
    (folder_of(settings) / "other.html").write_text("secret")
    for name in ("other.html", "..%2Findex.sqlite", "%2e%2e%2f%2e%2e%2fft_dagster.yaml", file.name + "x"):
        assert client.get(f"/fleet/audit/{name}").status_code == 404
    assert "other.html" not in client.get("/fleet/audit").text


def test_a_mistake_in_a_file_of_the_platform_is_said_in_words(client: TestClient, settings: Settings) -> None:
    (settings.project / "policy.yaml").write_text("gates: {no such: 1}\n")
    answer = client.get("/fleet")
    assert answer.status_code == 503
    assert "policy.yaml: gates.no such" in answer.text.replace("\u200b", "")
    assert "Traceback" not in answer.text


def test_a_storage_out_of_reach_is_said_in_words() -> None:
    def away() -> FleetReader:
        raise ConnectionRefusedError("Connection refused: s3.example:443")

    client = TestClient(Starlette(routes=fleet_routes(away, "127.0.0.1")), "http://localhost:3000")
    answer = client.get("/fleet")
    assert answer.status_code == 503
    assert "the storage could not be reached: Connection refused: s3.example:443" in answer.text


def test_what_a_queued_run_waits_for_is_said_as_run_says_it(settings: Settings) -> None:
    with new_instance({"run_coordinator": dagster_yaml(settings)["run_coordinator"]}) as instance:
        tags, status = {VARIANT: "acme.places", TENANT: "acme"}, dg.DagsterRunStatus
        first, second = (
            instance.add_run(dg.DagsterRun("variant_chain", status=each, tags=tags, remote_job_origin=ORIGIN))
            for each in (status.STARTED, status.QUEUED)
        )
        key = VariantKey.parse("acme.places")
        (printed,) = looked_at(instance, settings, [Launched(key, second.run_id)]).values()
        assert printed.progress == f"waits for run {first.run_id[:8]} of this variant to end"
        page = fleet_page(FleetReader(instance, settings).now(), FleetQuery.of({}))
        assert printed.progress in as_live_html(page).replace("\u200b", "")


def test_a_port_that_is_taken_is_one_line_with_the_way_out(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["--project", str(settings.project), "ui", "--port", str(port)])
    assert str(done.exception) == (
        f"--port: another program listens there (got '127.0.0.1:{port}'). Give another, as --port {port + 1}"
    )


def test_while_the_store_is_away_the_pages_show_what_was_known_and_since_when(
    settings: Settings, tmp_path: Path
) -> None:
    folder, served = settings.project, tmp_path / "s3"
    shutil.copytree(folder / "store", served / "artifacts/store")
    with serve_s3(served) as s3:
        stored = {"store": "s3://artifacts/store", "store_options": s3.options}
        edit(folder / "ft_dagster.yaml", lambda content: content.update(stored))
        there = load_settings(folder)
        with open_instance(there) as instance:
            ticked(folder, instance, datetime.now(UTC))
    with open_instance(there) as instance:
        reader = FleetReader(instance, there)
        client = TestClient(Starlette(routes=fleet_routes(lambda: reader, "127.0.0.1")), "http://localhost")
        for path in ("/fleet", "/fleet/acme.places"):
            answer = client.get(path)
            assert answer.status_code == 200
            said = answer.text.replace("\u200b", "")
            assert "UTC: store: the storage could not be reached: Could not connect" in said
            assert said.count("could not be reached") == 1
            assert "acme.places" in said
    with serve_s3(served, int(s3.endpoint.rpartition(":")[2])), open_instance(there) as instance:
        reader = FleetReader(instance, there)
        assert reader.now().problems == []
