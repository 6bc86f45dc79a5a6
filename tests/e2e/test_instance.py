"""The real programs: webserver and daemon over HTTP, and the command line on the same instance."""

import json
import subprocess
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from ft_dagster.automation.processes.instance import workspace_file, write_home
from ft_dagster.cli import app
from ft_dagster.settings import load_settings
from ft_dagster.store import Store, read_head
from tests.e2e.instance import (
    BIN,
    ask,
    ended,
    free_port,
    launch,
    running,
    wait_until,
)
from tests.e2e.project import UP_TO_PLAN, command_environment, edit, write_project
from tests.present import present
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    return write_project(tmp_path_factory.mktemp("instance"), tiny_model_folder)


def ft_dagster(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [BIN / "ft-dagster", *arguments], env=command_environment(folder), capture_output=True, text=True,
        timeout=400, check=False,
    )  # fmt: skip
    if check:
        assert result.returncode == 0, result.stderr + result.stdout
    return result


@pytest.mark.long
def test_a_partition_launched_through_the_webserver_is_tagged_made_and_read_back(folder: Path) -> None:
    settings = load_settings(folder)
    environment = command_environment(folder) | write_home(settings)
    with dg.DagsterInstance.from_config(environment["DAGSTER_HOME"]):
        pass  # its tables are made before webserver and daemon both find them absent
    port = free_port()
    target = ["-w", str(workspace_file(settings))]
    web: list[str | Path] = [BIN / "dagster-webserver", "-p", str(port), *target]
    with running(web, environment), running([BIN / "dagster-daemon", "run", *target], environment):
        wait_until(lambda: ask(port, "{ version }"))
        done = ended(port, launch(port, "acme.places", *UP_TO_PLAN))
    assert done.status == "SUCCESS"
    tags = {tag["key"]: tag["value"] for tag in done.run["tags"]}
    assert (tags["ft/tenant"], tags["ft/variant"], tags["ft/reason"]) == ("acme", "acme.places", "ui")
    made = {m["assetKey"]["path"][0]: m for m in done.run["assetMaterializations"]}
    assert set(made) == set(UP_TO_PLAN)
    assert {made[name]["partition"] for name in UP_TO_PLAN if name != "general_corpus"} == {"acme.places"}
    labels = {entry["label"] for entry in made["training_plan"]["metadataEntries"]}
    assert {"digest", "owners", "plan"} <= labels


@pytest.fixture(scope="module")
def first(folder: Path) -> dict[str, Any]:
    """What the command line said of a variant's first run of the whole chain."""
    row: dict[str, Any] = json.loads(ft_dagster(folder, "run", "acme.places", "--json").stdout)["variants"][0]
    return row


@pytest.mark.long
def test_the_command_line_runs_reuses_and_reports_through_the_same_instance(
    folder: Path, first: dict[str, Any]
) -> None:
    assert first["run_status"] == "SUCCESS"
    assert first["gate"] is True
    again = ft_dagster(folder, "run", "acme.places")
    assert f"nothing changed since run {first['run_id'][:8]}, none was started" in again.stdout
    status = json.loads(ft_dagster(folder, "status", "--json").stdout)["variants"]
    acme = next(v for v in status if v["variant"] == "acme.places")
    assert acme["digest"] == first["digest"]
    assert acme["version"] == 1
    shown = json.loads(ft_dagster(folder, "show", "acme.places", "--json").stdout)
    assert shown["fields"]["method.rank"] == {"value": 4, "from": "places.yaml"}
    assert any(reason["field"] == "method.alpha" for reason in shown["plan"])
    compared = json.loads(ft_dagster(folder, "compare", "acme.places", "--json").stdout)["variants"][0]
    assert {rule["rule"] for rule in compared["rules"]} >= {"task", "general_benchmark", "general_loss"}
    words = ["try", "acme.places", "--prompt", "Where is the ship?", "--json"]
    done = CliRunner().invoke(app, ["--project", str(folder), *words], catch_exceptions=False)
    tried = json.loads(done.stdout)
    assert tried[0]["answers"][0]["prompt"] == "Where is the ship?"
    rerun = ft_dagster(folder, "run", "acme.places", "--rerun")
    assert "nothing changed, every artifact was reused" in rerun.stdout


@pytest.mark.long
def test_all_variants_are_run_but_those_that_stand(folder: Path, first: dict[str, Any]) -> None:
    both = json.loads(ft_dagster(folder, "run", "--all", "--json").stdout)["variants"]
    newest = {"run_id": both[0]["run_id"]}  # of the test before, where this process ran it
    assert both[0] == {**first, **newest, "reused": True, "started": False}
    assert (both[1]["variant"], both[1]["started"]) == ("globex.places", True)


def test_a_mistake_is_one_message_and_exit_code_two(folder: Path, tmp_path: Path) -> None:
    for arguments in (["show", "../x"], ["run", "acme.plces"], ["show", "A" * 300], ["run"]):
        result = ft_dagster(folder, *arguments, check=False)
        assert result.returncode == 2, arguments
        assert "Traceback" not in result.stderr + result.stdout
        assert result.stderr.startswith("error:") or "Usage" in result.stderr
    assert ft_dagster(tmp_path, "status", check=False).returncode == 2


@pytest.mark.long
def test_check_reports_every_wrong_declaration_at_once(folder: Path) -> None:
    assert ft_dagster(folder, "check").returncode == 0
    bad = folder / "tenants" / "acme" / "wrong.yaml"
    bad.write_text((folder / "tenants/acme/places.yaml").read_text())
    edit(bad, lambda c: c["data"].update(sources=["data/missing.jsonl"]))
    try:
        result = ft_dagster(folder, "check", "--json", check=False)
        assert result.returncode == 1
        found = {v["variant"]: v for v in json.loads(result.stdout)["variants"]}
        assert found["acme.places"]["ok"] is True
        assert found["acme.wrong"]["error"]["field"] == "data.sources[0].path"
    finally:
        bad.unlink()


def test_every_command_has_help() -> None:
    """Asked of the program once, of the others in this process: to start one takes half a second."""
    commands = ("init", "check", "schema", "run", "status", "show", "compare", "try", "gpus")
    listed = subprocess.run([BIN / "ft-dagster", "--help"], capture_output=True, text=True, check=True).stdout
    for command in commands:
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0
        assert "--help" in result.stdout
        assert f" {command} " in listed


@pytest.mark.long
def test_init_starts_a_project_that_checks_and_never_overwrites(
    tmp_path: Path, folder: Path, tiny_model_folder: Path
) -> None:
    made = tmp_path / "new"
    options = ["--base-model", str(tiny_model_folder), "--data", str(folder / "data/rows.jsonl")]
    ft_dagster(tmp_path, "init", str(made), *options, "--variant", "acme.first")
    assert ft_dagster(made, "check").returncode == 0
    assert (
        ft_dagster(tmp_path, "init", str(made), *options, "--variant", "acme.first", check=False).returncode
        == 2
    )


@pytest.mark.long
def test_the_chain_runs_on_an_s3_store(tmp_path: Path, tiny_model_folder: Path, s3_server: S3Server) -> None:
    folder = write_project(tmp_path / "s3", tiny_model_folder)
    store = f"s3://{s3_server.bucket}/chain"
    edit(folder / "ft_dagster.yaml", lambda c: c.update(store=store))
    environment = command_environment(folder) | s3_server.environment
    result = subprocess.run(
        [BIN / "ft-dagster", "run", "globex.places", "--json"],
        env=environment, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr + result.stdout
    (row,) = json.loads(result.stdout)["variants"]
    assert row["version"] == 1
    export = present(read_head(Store(store, s3_server.options), "tenants/globex/places", "model_export"))
    assert export.digest == row["digest"]
    assert not (folder / ".ft_dagster" / "store").exists()
