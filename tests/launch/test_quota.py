"""The quota of a tenant: what it may hold at once, and that nobody else waits for it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ft_dagster.errors import UserError
from ft_dagster.launch.leases import Leases, WaitStopped
from ft_dagster.resources.gpus import Gpus
from ft_dagster.settings import load_settings
from tests.launch.helpers import ask, line_of, slots, wait_until

Start = Callable[..., "subprocess.Popen[str]"]
QUOTA = {"default": 3, "acme": 2}


@pytest.fixture
def leases(locks: Path) -> Leases:
    """Four CPU slots, of which acme may hold two at once, everybody else three."""
    return Leases(locks, slots(4), quota=QUOTA, poll_seconds=0.02)


def refused_reason(leases: Leases, count: int, tenant: str = "acme") -> str:
    with pytest.raises(WaitStopped) as stopped:
        leases.acquire(ask(count, "late", tenant=tenant), should_stop=lambda: True)
    return str(stopped.value)


def wait_in_line(
    start: Start, leases: Leases, name: str, count: int, tenant: str = "acme"
) -> subprocess.Popen[str]:
    environment = {**os.environ, "HOLDER_TENANT": tenant, "HOLDER_QUOTA": json.dumps(QUOTA)}
    process = start("holder.py", leases.folder, 4, count, 0, name, env=environment)
    wait_until(lambda: name in [waiter.run_id for waiter in leases.table().waiting])
    return process


def test_a_tenant_holds_no_more_than_its_quota_although_devices_are_free(leases: Leases) -> None:
    with leases.acquire(ask(2)):
        assert refused_reason(leases, 1) == "acme holds 2 of the 2 that it may hold at once (host.quota)"
        with leases.acquire(ask(2, tenant="globex")) as other:
            assert len(other.devices) == 2
    with leases.acquire(ask(2)) as again:
        assert len(again.devices) == 2


def test_who_waits_for_a_quota_does_not_hold_up_other_tenants(leases: Leases, start: Start) -> None:
    with leases.acquire(ask(2)):
        wait_in_line(start, leases, "over", 2)
        (waiter,) = leases.table().waiting
        assert waiter.why == "a test: acme holds 2 of the 2 that it may hold at once (host.quota)"
        with leases.acquire(ask(2, tenant="globex"), should_stop=lambda: True) as served:
            assert len(served.devices) == 2


def test_small_asks_of_a_tenant_do_not_starve_its_large_one_beneath_the_quota(
    leases: Leases, start: Start
) -> None:
    with leases.acquire(ask(1)):
        large = wait_in_line(start, leases, "large", 2)
        why = refused_reason(leases, 1)
        assert why.endswith(
            "holds 1 of the 2 that it may hold at once (host.quota) and waits for 2 more ahead of this"
        )
    assert line_of(large).split()[0] == "large"


def test_a_waiter_back_within_its_quota_keeps_its_place(leases: Leases, start: Start) -> None:
    other = leases.acquire(ask(2, tenant="globex"))
    own = leases.acquire(ask(2))
    first = wait_in_line(start, leases, "first", 2)
    wait_in_line(start, leases, "second", 3, "globex")
    own.release()
    assert line_of(first).split()[0] == "first"
    other.release()


def test_devices_of_a_killed_holder_count_until_its_ranks_are_gone(leases: Leases, start: Start) -> None:
    holder = start("holder.py", leases.folder, 4, 2, 0, "holder", "rank")
    rank = int(line_of(holder).split()[1])
    holder.kill()
    holder.wait()
    try:
        assert "acme holds 2 of the 2" in refused_reason(leases, 1)
    finally:
        os.kill(rank, 9)
    wait_until(lambda: leases.table().devices[0].state == "free")
    leases.acquire(ask(1)).release()


def test_what_another_instance_lent_counts(leases: Leases) -> None:
    other = Leases(leases.folder, slots(8), poll_seconds=0.02)
    with other.acquire(ask(2)):
        assert "acme holds 2 of the 2" in refused_reason(leases, 1)


@pytest.mark.parametrize(("tenant", "count", "most"), [("acme", 3, 2), ("globex", 4, 3)])
def test_asking_for_more_than_the_quota_is_refused(
    leases: Leases, tenant: str, count: int, most: int
) -> None:
    with pytest.raises(UserError, match=f"{tenant} may hold {most} CPU slots at once") as error:
        leases.acquire(ask(count, tenant=tenant))
    assert (error.value.field, error.value.value) == ("resources.cpu_slots", count)
    assert leases.most(tenant) == most


def test_quotas_are_settings_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "tenants").mkdir()
    host = {"cpu_slots": 4, "gpus": [], "lock_folder": str(tmp_path / "locks"), "quota": QUOTA}
    (tmp_path / "ft_dagster.yaml").write_text(yaml.safe_dump({"host": host}))
    assert Gpus(project=str(tmp_path)).leases().most("acme") == 2


@pytest.mark.parametrize("quota", [{"acme": 0}, {"Acme": 2}, {"acme": "many"}, {"default": -1}])
def test_a_wrong_quota_is_refused_by_name(tmp_path: Path, quota: dict[str, object]) -> None:
    (tmp_path / "tenants").mkdir()
    (tmp_path / "ft_dagster.yaml").write_text(yaml.safe_dump({"host": {"quota": quota}}))
    with pytest.raises(UserError) as error:
        load_settings(tmp_path)
    assert str(error.value.field).startswith(f"host.quota.{next(iter(quota))}")
