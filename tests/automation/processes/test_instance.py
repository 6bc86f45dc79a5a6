"""The instance that a project gets: its coordinator, its limits, and the tags of each run."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import dagster as dg
import pytest
import yaml

from ft_dagster.automation.coordinator import VariantRunCoordinator
from ft_dagster.automation.processes.instance import opened, submitted, write_home
from ft_dagster.automation.tags import changed_tags
from ft_dagster.dagster_private import PARTITION
from ft_dagster.errors import UserError
from ft_dagster.settings import Settings, load_settings
from ft_dagster.spec import VariantKey
from tests.automation.declarations import declare

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("FT_DAGSTER_PROJECT", str(tmp_path))
    declare(tmp_path, "acme.support", resources={"priority": 5})
    return load_settings(tmp_path)


def run_of(**tags: str) -> dg.DagsterRun:
    return dg.DagsterRun(
        job_name="__ASSET_JOB", tags={name.replace("__", "/"): v for name, v in tags.items()}
    )


def test_the_instance_queues_one_run_per_variant_with_our_coordinator(settings: Settings) -> None:
    home = write_home(settings)["DAGSTER_HOME"]
    with dg.DagsterInstance.from_config(home) as instance:
        assert isinstance(instance.run_coordinator, VariantRunCoordinator)
        limits = {
            limit["key"]: limit["limit"]
            for limit in instance.run_coordinator.get_run_queue_config().tag_concurrency_limits
        }
    assert limits == {"ft/variant": 1, "ft/tenant": 4}


def test_what_a_platform_set_in_its_instance_is_kept(settings: Settings) -> None:
    home = write_home(settings)["DAGSTER_HOME"]
    file = settings.dagster_home / "dagster.yaml"
    file.write_text(yaml.safe_dump({"telemetry": {"enabled": False}}))
    assert write_home(settings)["DAGSTER_HOME"] == home
    assert yaml.safe_load(file.read_text()) == {"telemetry": {"enabled": False}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("run_coordinator: [", "parsing a flow node"),
        pytest.param(
            "storage: {postgres: {postgres_url: 'postgresql+psycopg2://u:hush@127.0.0.1:1/d'}}",
            "connection",
            marks=pytest.mark.long,
        ),
        ("storages: {}", "storages"),
    ],
)
def test_an_instance_that_cannot_be_opened_is_said_in_a_line(
    settings: Settings, content: str, said: str
) -> None:
    write_home(settings)
    file = settings.dagster_home / "dagster.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=said) as refused, opened(settings.dagster_home):
        pass
    assert refused.value.file == str(file)
    assert "\n" not in str(refused.value)
    assert "hush" not in str(refused.value)


def test_an_address_of_postgres_without_its_driver_is_said(settings: Settings) -> None:
    write_home(settings)
    (settings.dagster_home / "dagster.yaml").write_text(
        "storage: {postgres: {postgres_url: 'postgresql://x'}}"
    )
    with pytest.raises(UserError, match="Begin it with postgresql\\+psycopg2"), opened(settings.dagster_home):
        pass


def test_an_instance_in_postgres_without_what_keeps_it_there_says_what_to_install(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_home(settings)
    (settings.dagster_home / "dagster.yaml").write_text(
        "storage: {postgres: {postgres_url: 'postgresql://x'}}"
    )
    monkeypatch.setitem(sys.modules, "dagster_postgres", None)
    with (
        pytest.raises(UserError, match=r"pip install 'ft-dagster\[postgres\]'"),
        opened(settings.dagster_home),
    ):
        pass


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({}, "ui"),
        ({"dagster__sensor_name": "due_retrains"}, "sensor"),
        ({"dagster__sensor_name": "s"}, "sensor"),
        ({"dagster__backfill": "b"}, "backfill"),
        ({"dagster__auto_materialize": "true"}, "automation"),
    ],
)
def test_a_run_of_a_partition_gets_tenant_variant_and_reason(
    settings: Settings, tags: dict[str, Any], reason: str
) -> None:
    missing = changed_tags(run_of(dagster__partition="acme.support", **tags))
    assert missing["ft/tenant"] == "acme"
    assert missing["ft/variant"] == "acme.support"
    assert missing["ft/reason"] == reason
    assert missing["dagster/priority"] == "5"


def test_tags_that_a_run_has_are_left_alone(settings: Settings) -> None:
    assert "ft/reason" not in changed_tags(run_of(dagster__partition="acme.support", ft__reason="audit"))


@pytest.mark.parametrize("partition", ["", "../x", "a|b", "x" * 300])
def test_a_run_without_a_variant_as_partition_gets_none(settings: Settings, partition: str) -> None:
    assert changed_tags(run_of(dagster__partition=partition)) == {}


def test_the_declared_number_of_runs_per_tenant_is_written_when_the_instance_is_made(
    settings: Settings,
) -> None:
    (settings.project / "ft_dagster.yaml").write_text("tenant_runs: 12\n", "utf-8")
    home = write_home(load_settings(settings.project))["DAGSTER_HOME"]
    with dg.DagsterInstance.from_config(home) as instance:
        assert isinstance(instance.run_coordinator, VariantRunCoordinator)
        queue = instance.run_coordinator.get_run_queue_config()
    assert queue.max_concurrent_runs == 12
    assert {"key": "ft/tenant", "value": {"applyLimitPerUniqueValue": True}, "limit": 12} in (
        queue.tag_concurrency_limits
    )


def test_a_declaration_without_a_priority_runs_with_priority_zero(settings: Settings) -> None:
    declare(settings.project, "acme.plain")
    assert changed_tags(run_of(dagster__partition="acme.plain"))["dagster/priority"] == "0"


def test_a_run_of_a_declaration_that_cannot_be_read_is_tagged_all_the_same(settings: Settings) -> None:
    (settings.project / "tenants" / "acme" / "broken.yaml").write_text("{", "utf-8")
    missing = changed_tags(run_of(dagster__partition="acme.broken"))
    assert missing == {
        "ft/tenant": "acme",
        "ft/variant": "acme.broken",
        "ft/project_tenant": ":acme",
        "ft/project_variant": ":acme.broken",
        "ft/reason": "ui",
        "dagster/priority": "0",
    }


@dg.asset(name="declaration")
def declared() -> None:
    """An asset to select."""


def test_the_runs_of_a_variant_that_a_command_follows_are_those_of_its_whole_chain(tmp_path: Path) -> None:
    key, started = VariantKey.parse("acme.support"), [dg.DagsterRunStatus.STARTED]

    job = dg.define_asset_job("variant_chain", [declared])
    chain = dg.Definitions([declared], jobs=[job]).resolve_job_def("variant_chain")

    def make(instance: dg.DagsterInstance, variant: str, **more: Any) -> str:
        tags = {PARTITION: variant}
        return instance.create_run_for_job(chain, status=started[0], tags=tags, **more).run_id

    declare(tmp_path, str(key))
    here = load_settings(tmp_path)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        first, second = make(instance, "acme.support"), make(instance, "acme.support")
        make(instance, "acme.other")
        make(instance, "acme.support", asset_selection=frozenset({dg.AssetKey("declaration")}))
        assert [run.run_id for run in submitted(instance, here, key, started)] == [first, second]
        assert submitted(instance, here, key, [dg.DagsterRunStatus.STARTING]) == []


def test_those_who_open_a_new_instance_at_once_all_can(settings: Settings) -> None:
    """Left to Dagster, some write a second version into the databases, which nobody opens again."""
    home, start = Path(write_home(settings)["DAGSTER_HOME"]), Barrier(6)

    def open_it(_: int) -> int:
        start.wait()
        with opened(home) as instance:
            return len(instance.get_runs())

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(open_it, range(6))) == [0] * 6
