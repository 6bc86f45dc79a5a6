"""Releases in a real MLflow server: versions with their lineage, aliases that follow the log, and a server
that is down.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from ft_dagster.assets.partitions import Graph
from ft_dagster.automation.registry import RegistryCursor, RegistryTry, register_changed
from ft_dagster.build import build_defs, default_resources
from ft_dagster.errors import UserError
from ft_dagster.export.registry import _register, _registry, lineage_tags, push_releases
from ft_dagster.lineage.release import ReleaseRequest, export_of, rollback, take_out
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages.judging.may_serve import unserved_of
from ft_dagster.store import exclusive
from ft_dagster.store.cache import make_room
from tests.e2e.project import write_yaml
from tests.instances import new_instance
from tests.present import present
from tests.releases import adapter, frozen, release, whole_model
from tests.s3_server import S3Server, free_port
from tests.trackers import ROOT, Trackers, mlflow_server

KEY = VariantKey("acme", "support")
SAYS = """
import json, sys
from mlflow import MlflowClient

address, name = sys.argv[1:]
client = MlflowClient(address, address)
versions = client.search_model_versions(f"name = '{name}'")
print(json.dumps({
    "aliases": {alias: int(number) for alias, number in client.get_registered_model(name).aliases.items()},
    "versions": {str(one.version): dict(one.tags) for one in versions},
}))
"""
LOADS = """
import json, sys
from mlflow import set_tracking_uri
from mlflow.artifacts import download_artifacts
from transformers import AutoModelForCausalLM

address, name, folder = sys.argv[1:]
set_tracking_uri(address)
place = download_artifacts(f"models:/{name}@production", dst_path=folder)
model = AutoModelForCausalLM.from_pretrained(place)
print(json.dumps(sum(each.numel() for each in model.parameters())))
"""


def named(project: Path, address: str | None, **more: Any) -> Settings:
    write_yaml(project / "ft_dagster.yaml", {"registry": {"mlflow": address}, **more})
    (project / "tenants" / "acme").mkdir(parents=True, exist_ok=True)
    write_yaml(
        project / "tenants" / "acme" / "support.yaml",
        {"description": "d", "owners": ["a"], "base_model": "models/b", "data": {"sources": ["rows.jsonl"]}},
    )
    return load_settings(project)


def test_without_a_registry_or_its_library_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"registry.mlflow: no model registry is named"):
        push_releases(named(tmp_path, None), KEY, lambda key: None)
    with pytest.raises(UserError, match=r"mlflow is not installed here.*pip install 'ft-dagster\[mlflow\]'"):
        push_releases(named(tmp_path, "http://127.0.0.1:1"), KEY, lambda key: None)


def test_an_address_has_no_credentials(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"registry.mlflow: .*MLFLOW_TRACKING_USERNAME"):
        named(tmp_path, "https://ann:secret@mlflow.example")


def test_whatever_keeps_its_files_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.py").write_text("class MlflowClient:\n    def __init__(self, **places): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    settings = named(tmp_path, "http://127.0.0.1:1")
    try:
        with (
            pytest.raises(UserError, match="the model registry took nothing more: Read-only file system"),
            _registry(settings),
        ):
            raise OSError("Read-only file system")
    finally:
        sys.modules.pop("mlflow", None)


CLIENT = """
from types import SimpleNamespace as Named

class MlflowClient:
    versions, aliases = {}, {}

    def __init__(self, **places): pass
    def search_model_versions(self, *_, **__): return list(self.versions.values())
    def search_registered_models(self, *_): return [1]
    def get_experiment_by_name(self, name): return Named(experiment_id="1")
    def create_run(self, *_, **__): return Named(info=Named(run_id="1", artifact_uri="mlflow-artifacts:/1"))
    def log_artifacts(self, *_): pass
    def log_artifact(self, *_): pass
    def set_terminated(self, *_): pass
    def get_registered_model(self, name): return Named(aliases=self.aliases)
    def set_registered_model_alias(self, name, alias, number): self.aliases[alias] = number
    def delete_registered_model_alias(self, name, alias): del self.aliases[alias]
    def set_model_version_tag(self, name, number, key, value): self.versions[number].tags[key] = value
    def delete_model_version_tag(self, name, number, key): del self.versions[number].tags[key]

    def create_model_version(self, name, source, run, tags):
        number = str(len(self.versions) + 1)
        self.versions[number] = Named(version=number, tags=dict(tags))
        return self.versions[number]
"""


@pytest.fixture
def in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A registry that is kept in this process: MLflow is not installed where tests run."""
    (tmp_path / "mlflow.py").write_text(CLIENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    yield
    sys.modules.pop("mlflow", None)


@pytest.mark.usefixtures("in_memory")
def test_what_may_no_longer_be_served_is_tagged_and_where_it_is_withheld_no_alias_comes_to_it(
    tmp_path: Path,
) -> None:
    settings = named(tmp_path, "http://127.0.0.1:1")
    store, asks = settings.open_store(), unserved_of(settings)
    frozen(store, str(KEY))
    release(store, str(KEY), adapter(1))
    assert push_releases(settings, KEY, asks).unserved is None
    write_yaml(tmp_path / "policy.yaml", {"methods": ["full"]})  # what trained it is not known here
    warned = push_releases(settings, KEY, unserved_of(settings))
    assert (warned.moved, present(warned.unserved).version) == ({}, 1)
    assert "cannot be held against today's policy" in tags_of("1")["ft_dagster.may_not_serve"]
    assert "acme.support v1 is in production and may no longer be served (policy)" in warned.said

    write_yaml(tmp_path / "policy.yaml", {"methods": ["full"], "serving": "refuse"})
    release(store, str(KEY), adapter(2), "c" * 64)
    refused = push_releases(settings, KEY, unserved_of(settings))
    assert (refused.versions, refused.moved, [*refused.left_out]) == ((), {}, [2])
    assert "ft_dagster.may_not_serve" not in tags_of("1")  # it is in production no more

    write_yaml(tmp_path / "policy.yaml", {"serving": "refuse"})
    again = push_releases(settings, KEY, unserved_of(settings))
    assert (again.versions, again.moved) == ((2,), {"production": 2, "candidate": 2})
    assert again.unserved is None


def tags_of(number: str) -> dict[str, str]:
    import mlflow

    tags: dict[str, str] = mlflow.MlflowClient.versions[number].tags
    return tags


def test_settings_that_cannot_be_read_are_said_in_its_log(tmp_path: Path) -> None:
    named(tmp_path, "http://127.0.0.1:1")
    with (
        new_instance() as instance,
        dg.build_sensor_context(instance, resources=default_resources(str(tmp_path))) as context,
    ):
        sensor = build_defs(tmp_path).get_sensor_def("registered_releases")
        (tmp_path / "ft_dagster.yaml").write_text("registry: 3")
        assert "registry" in present(sensor.evaluate_tick(context).skip_message)


def test_the_lineage_leads_back_to_all_that_made_it(tmp_path: Path) -> None:
    store = named(tmp_path, None).open_store()
    entry = release(store, str(KEY), adapter())
    export = export_of(store, KEY.prefix, 1, tmp_path / "cache")
    tags = lineage_tags(entry, export.inputs)
    assert tags["ft_dagster.variant"] == "acme.support"
    assert (tags["ft_dagster.version"], tags["ft_dagster.export"]) == ("1", export.digest)
    assert tags["ft_dagster.made_of.base_model"] == export.inputs["base_model"]
    assert all(isinstance(value, str) for value in tags.values())


class Room:
    """In place of MLflow's client: at each upload the cache is made as empty as it may be."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.sent = cache, list[str]()

    def create_run(self, *_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(run_id="run", artifact_uri="mlflow-artifacts:/1"))

    def log_artifacts(self, run: str, folder: str, to: str) -> None:
        make_room(self.cache, 0, 0)
        self.sent += sorted(each.name for each in Path(folder).iterdir())

    def get_experiment_by_name(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(experiment_id="1")

    def create_model_version(self, *_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(version=1)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@pytest.mark.slow
def test_an_export_is_held_while_it_is_pushed_and_no_longer(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exclusive, "SETTLE_SECONDS", 0.0)
    store = {"store": f"s3://{s3_server.bucket}/{tmp_path.name}", "store_options": s3_server.options}
    settings = named(tmp_path, "http://127.0.0.1:1", **store)
    entry = release(settings.open_store(), str(KEY), adapter(), work=settings.work_folder)
    export, client = export_of(settings.open_store(), KEY.prefix, 1, tmp_path), Room(settings.cache_folder)
    assert _register(client, settings, str(KEY), entry, export) == "1"
    assert client.sent == sorted(adapter())
    make_room(settings.cache_folder, 0, 0)
    assert list(settings.cache_folder.glob("*/*/payload")) == []


def test_what_was_released_waits_until_the_registry_takes_it(tmp_path: Path) -> None:
    settings, graph, now = named(tmp_path, "http://127.0.0.1:1"), Graph(), datetime.now(UTC)
    with new_instance() as instance:
        for key in ("acme.support", "globex.places"):
            event = dg.AssetMaterialization(graph.key("release"), partition=key)
            instance.report_runless_asset_event(event)
        first = register_changed(instance, settings, RegistryCursor(), now, graph)
        assert set(first.waiting) == {"acme.support", "globex.places"}
        assert [one.tries for one in first.waiting.values()] == [1, 0]  # it was asked once
        assert "mlflow is not installed" in first.waiting["acme.support"].why
        assert RegistryCursor.parse(str(first)) == first
        second = register_changed(instance, settings, first, now + timedelta(seconds=30), graph)
        assert [one.tries for one in second.waiting.values()] == [1, 1]
        third = register_changed(instance, settings, second, now + timedelta(seconds=59), graph)
        assert third == second
        fourth = register_changed(instance, settings, third, now + timedelta(seconds=61), graph)
        assert fourth.waiting["acme.support"].tries == 2


def test_a_cursor_that_is_none_begins_anew() -> None:
    for text in (None, "", "[]", '{"releases": 1}', '{"releases": "x", "waiting": {}}'):
        assert RegistryCursor.parse(text) == RegistryCursor()
    kept = RegistryCursor(7, {"acme.support": RegistryTry(1, 2.0, "why")})
    assert RegistryCursor.parse(str(kept)) == kept


def test_the_sensor_is_there_where_a_registry_is_named(tmp_path: Path) -> None:
    for address, wanted in ((None, False), ("http://127.0.0.1:1", True)):
        named(tmp_path, address)
        sensors = present(build_defs(tmp_path).sensors)
        assert ("registered_releases" in {sensor.name for sensor in sensors}) is wanted


def register(python: Path, project: Path) -> subprocess.CompletedProcess[str]:
    program = "from ft_dagster.cli import main; main()"
    command = [str(python), "-c", program, "--project", str(project), "register", str(KEY), "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def says(python: Path, program: str, *arguments: str) -> Any:
    command = [str(python), "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.long
def test_a_release_appears_in_a_real_server_and_its_alias_follows_a_rollback(
    tmp_path: Path, tiny_model_folder: Path, trackers: Trackers
) -> None:
    port = free_port()
    settings = named(tmp_path / "project", f"http://127.0.0.1:{port}")
    store = settings.open_store()
    first = release(store, str(KEY), whole_model(tiny_model_folder))
    with mlflow_server(trackers.server, tmp_path / "server", port) as address:
        done = register(trackers.client, settings.project)
        assert done.returncode == 0, done.stderr
        [said] = json.loads(done.stdout)["variants"]
        assert (said["versions"], said["moved"]) == ([1], {"production": 1, "candidate": 1})
        shown = says(trackers.client, SAYS, address, str(KEY))
        assert shown["aliases"] == {"production": 1, "candidate": 1}
        assert shown["versions"]["1"]["ft_dagster.export"] == first.export
        (tmp_path / "loaded").mkdir()
        assert says(trackers.client, LOADS, address, str(KEY), str(tmp_path / "loaded")) > 0
        [said] = json.loads(register(trackers.client, settings.project).stdout)["variants"]
        assert (said["versions"], said["moved"]) == ([], {})

        other = {**whole_model(tiny_model_folder), "more.json": {"n": 2}}
        release(store, str(KEY), other, "c" * 64)
        register(trackers.client, settings.project)
        assert says(trackers.client, SAYS, address, str(KEY))["aliases"] == {
            "production": 2,
            "candidate": 2,
        }
        rollback(store, KEY.prefix, ReleaseRequest("worse"))
        [said] = json.loads(register(trackers.client, settings.project).stdout)["variants"]
        assert said["moved"] == {"production": 1}
        assert says(trackers.client, SAYS, address, str(KEY))["aliases"] == {
            "production": 1,
            "candidate": 2,
        }
    third = {**whole_model(tiny_model_folder), "more.json": {"n": 3}}
    release(store, str(KEY), third, "d" * 64)
    down = register(trackers.client, settings.project)
    assert down.returncode == 2
    assert "Every release stands" in json.loads(down.stdout)["error"]["fix"]
    with mlflow_server(trackers.server, tmp_path / "server", port) as address:
        [said] = json.loads(register(trackers.client, settings.project).stdout)["variants"]
        assert (said["versions"], said["moved"]) == ([3], {"production": 3, "candidate": 3})
        assert set(says(trackers.client, SAYS, address, str(KEY))["versions"]) == {"1", "2", "3"}
        take_out(store, KEY.prefix, ReleaseRequest("names in its answers"))
        [said] = json.loads(register(trackers.client, settings.project).stdout)["variants"]
        assert said["moved"] == {"production": None}
        assert says(trackers.client, SAYS, address, str(KEY))["aliases"] == {"candidate": 3}
