"""What the clock and new files ask for."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ft_dagster.assets.partitions import PARTITIONS
from ft_dagster.automation.declared import new_declarations
from ft_dagster.automation.due import last_due
from ft_dagster.automation.tags import DUE
from ft_dagster.definitions import resources
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.spec.variant import RetrainSpec
from ft_dagster.stages.summary import variant_row
from tests.automation.declarations import NOON, declare, start_from, tick
from tests.present import present
from tests.releases import adapter, release


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def look(folder: Path, instance: dg.DagsterInstance) -> Any:
    with dg.build_sensor_context(instance=instance, resources=resources(str(folder))) as context:
        return new_declarations(context)


def test_a_tick_asks_for_one_run_per_due_variant(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    declare(tmp_path, "acme.daily", "0 12 * * *")
    declare(tmp_path, "acme.later", "0 18 * * *")
    declare(tmp_path, "globex.monday", "0 12 * * 1")
    declare(tmp_path, "globex.never")
    instance.add_dynamic_partitions(PARTITIONS, ["acme.daily", "acme.later", "globex.monday", "globex.never"])
    requests = tick(tmp_path, instance, NOON)
    assert [r.partition_key for r in requests] == ["acme.daily", "globex.monday"]
    assert requests[0].tags["ft/tenant"] == "acme"
    assert requests[0].tags["ft/variant"] == "acme.daily"
    assert requests[0].tags["ft/reason"] == "schedule"


def test_the_same_cron_time_is_never_asked_for_twice(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    declare(tmp_path, "acme.daily", "0 12 * * *")
    instance.add_dynamic_partitions(PARTITIONS, ["acme.daily"])
    (first,) = tick(tmp_path, instance, NOON)
    assert first.run_key == "acme.daily@2026-03-02T12.00Z"
    instance.create_run_for_job(job_def=_empty_job(), tags=first.tags)
    assert tick(tmp_path, instance, NOON) == []
    assert tick(tmp_path, instance, NOON + timedelta(minutes=1)) == []
    assert len(tick(tmp_path, instance, NOON + timedelta(days=1))) == 1


def test_a_tick_missed_while_the_daemon_was_down_is_made_up_for_an_hour(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    declare(tmp_path, "acme.daily", "0 12 * * *")
    instance.add_dynamic_partitions(PARTITIONS, ["acme.daily"])
    (late,) = tick(tmp_path, instance, NOON + timedelta(minutes=40))
    assert late.tags[DUE] == "2026-03-02T12.00Z"
    assert tick(tmp_path, instance, NOON + timedelta(hours=2)) == []


def test_a_cron_is_read_in_its_own_time_zone() -> None:
    retrain = RetrainSpec(cron="0 12 * * *", timezone="Asia/Tokyo")
    assert last_due(retrain, datetime(2026, 3, 2, 3, 0, tzinfo=UTC)) == datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
    assert last_due(retrain, NOON) is None


def test_a_broken_declaration_does_not_stop_the_others(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    declare(tmp_path, "acme.daily", "0 12 * * *")
    declare(tmp_path, "acme.broken", "0 12 * * *", objectiv="x")
    instance.add_dynamic_partitions(PARTITIONS, ["acme.daily", "acme.broken"])
    assert [r.partition_key for r in tick(tmp_path, instance, NOON)] == ["acme.daily"]
    instance.delete_dynamic_partition(PARTITIONS, "acme.daily")
    (request,) = look(tmp_path, instance).dynamic_partitions_requests
    assert request.partition_keys == ["acme.daily"]


def test_a_new_declaration_becomes_a_partition_once(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    declare(tmp_path, "acme.support")
    (request,) = look(tmp_path, instance).dynamic_partitions_requests
    assert request.partition_keys == ["acme.support"]
    instance.add_dynamic_partitions(PARTITIONS, request.partition_keys)
    assert isinstance(look(tmp_path, instance), dg.SkipReason)
    declare(tmp_path, "acme.second")
    (request,) = look(tmp_path, instance).dynamic_partitions_requests
    assert request.partition_keys == ["acme.second"]


def test_a_new_release_of_the_parent_asks_for_one_run_of_the_child(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    declare(tmp_path, "acme.medical")
    declare(tmp_path, "acme.child", base_model={"variant": "acme.medical"})
    declare(tmp_path, "acme.never-run", base_model={"variant": "acme.medical"})
    instance.add_dynamic_partitions(PARTITIONS, ["acme.medical", "acme.child", "acme.never-run"])
    store = load_settings(tmp_path).open_store()
    assert tick(tmp_path, instance, NOON) == []
    release(store, "acme.medical", adapter(1))
    start_from(tmp_path, "acme.child", "acme.medical")
    assert tick(tmp_path, instance, NOON) == []
    assert variant_row(store, VariantKey("acme", "child")).stale is None

    release(store, "acme.medical", adapter(2))
    (request,) = tick(tmp_path, instance, NOON)
    assert (request.partition_key, request.run_key) == ("acme.child", "acme.child@acme.medical-v2")
    assert request.tags["ft/reason"] == "parent acme.medical v2"
    assert variant_row(store, VariantKey("acme", "child")).stale == "acme.medical v2 was released since"

    instance.create_run_for_job(job_def=_empty_job(), tags=request.tags)  # and that run fails
    assert tick(tmp_path, instance, NOON + timedelta(days=3)) == []
    release(store, "acme.medical", adapter(3))
    (request,) = tick(tmp_path, instance, NOON + timedelta(days=3))
    assert request.run_key == "acme.child@acme.medical-v3"
    start_from(tmp_path, "acme.child", "acme.medical")
    assert tick(tmp_path, instance, NOON + timedelta(days=4)) == []
    assert variant_row(store, VariantKey("acme", "child")).stale is None


def test_a_parent_that_is_no_longer_declared_as_such_asks_for_nothing(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    declare(tmp_path, "acme.medical")
    declare(tmp_path, "acme.child", base_model={"variant": "acme.medical"})
    instance.add_dynamic_partitions(PARTITIONS, ["acme.medical", "acme.child"])
    store = load_settings(tmp_path).open_store()
    release(store, "acme.medical", adapter(1))
    start_from(tmp_path, "acme.child", "acme.medical")
    release(store, "acme.medical", adapter(2))
    declare(tmp_path, "acme.child")
    assert tick(tmp_path, instance, NOON) == []


def _empty_job() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None:
        pass

    @dg.job
    def empty() -> None:
        nothing()

    return empty


def test_a_misnamed_file_is_logged_and_stops_no_other(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    declare(tmp_path, "acme.daily", "0 12 * * *")
    (tmp_path / "tenants" / "acme" / "No_Key.yaml").write_text("x: 1\n")
    (tmp_path / "tenants" / "acme" / "broken.yaml").write_text("x: [\n")
    (request,) = look(tmp_path, instance).dynamic_partitions_requests
    assert list(request.partition_keys) == ["acme.daily"]
    instance.add_dynamic_partitions(PARTITIONS, ["acme.daily", "acme.broken"])
    assert [one.partition_key for one in tick(tmp_path, instance, NOON)] == ["acme.daily"]
    skipped = look(tmp_path, instance)
    assert isinstance(skipped, dg.SkipReason)
    assert "No_Key" in present(skipped.skip_message)
