"""Days on which the host is not as the leases left it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ft_dagster.errors import UserError
from ft_dagster.launch.inventory import Device, Inventory
from ft_dagster.launch.leases import Leases, WaitStopped
from ft_dagster.resources.gpus import Gpus
from tests.launch.helpers import PROGRAMS, ask, line_of, slots, wait_until

Start = Callable[..., "subprocess.Popen[str]"]
A, B = Device("0", None, "GPU", "GPU-aa"), Device("1", None, "GPU", "GPU-bb")


SOMEBODY_ELSE = """
import os, sys
from pathlib import Path
from ft_dagster.errors import UserError
from ft_dagster.launch.leases import Leases
from tests.launch.helpers import ask, slots

os.setuid(65534)
try:
    Leases(Path(sys.argv[1]), slots(1)).acquire(ask(1))
except UserError as error:
    print(error.field, error.value, error.problem)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_lock_folder_of_another_user_is_refused_by_name(leases: Leases) -> None:
    leases.acquire(ask(1)).release()
    command: list[str | Path] = [sys.executable, "-c", SOMEBODY_ELSE, leases.folder]
    root = Path(PROGRAMS).parents[2]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=root)
    assert refused.stdout.startswith(f"host.lock_folder {leases.folder} the lock folder cannot be used")


def test_a_device_that_vanished_while_it_was_leased_does_not_stop_the_others(locks: Path) -> None:
    with Leases(locks, Inventory("gpu", (A, B))).acquire(ask(2)):
        after = Leases(locks, Inventory("gpu", (A,)))
        (row,) = after.table().devices
        assert (row.device, row.state) == ("0", "held")
    with after.acquire(ask(1)) as lease:
        assert lease.devices == ("0",)


def test_a_device_that_vanished_is_not_waited_for(locks: Path) -> None:
    with pytest.raises(UserError) as error:
        Leases(locks, Inventory("gpu", (A,))).acquire(ask(2))
    assert (error.value.field, error.value.value) == ("resources.gpus", 2)


def test_who_waited_before_a_device_vanished_keeps_the_place(locks: Path, start: Start) -> None:
    before, after = slots(3), Leases(locks, slots(2), poll_seconds=0.02)
    with Leases(locks, before).acquire(ask(1)):
        waiter = start("holder.py", locks, 3, 3, 0, "waits")
        wait_until(lambda: after.table().waiting)
        with pytest.raises(WaitStopped, match="in line behind"):
            after.acquire(ask(1), should_stop=lambda: True)
    assert line_of(waiter).split()[0] == "waits"


def test_gpus_renumbered_after_one_vanished_keep_their_locks(locks: Path) -> None:
    """The driver numbers the GPUs again: what was GPU 1 is GPU 0. Its lock goes by its UUID."""
    with Leases(locks, Inventory("gpu", (A, B))).acquire(ask(2)):
        renumbered = Leases(locks, Inventory("gpu", (Device("0", None, "GPU", "GPU-bb"),)))
        with pytest.raises(WaitStopped):
            renumbered.acquire(ask(1), should_stop=lambda: True)


def test_cuda_visible_devices_from_outside_is_replaced_by_the_lease(
    locks: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    (tmp_path / "tenants").mkdir()
    host = {"gpus": ["1"], "lock_folder": str(locks)}
    (tmp_path / "ft_dagster.yaml").write_text(yaml.safe_dump({"host": host}))
    with Gpus(project=str(tmp_path)).leases().acquire(ask(1)) as lease:
        assert lease.environment()["CUDA_VISIBLE_DEVICES"] == "1"


def test_a_gpu_declared_but_hidden_from_outside_is_refused_before_a_lease(
    locks: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (tmp_path / "tenants").mkdir()
    (tmp_path / "ft_dagster.yaml").write_text(yaml.safe_dump({"host": {"gpus": ["1"]}}))
    with pytest.raises(UserError, match="hidden by CUDA_VISIBLE_DEVICES='0'"):
        Gpus(project=str(tmp_path)).leases()


def test_tickets_of_another_day_neither_order_nor_starve_those_of_today(
    leases: Leases, locks: Path, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    """The clock goes back ten years between two arrivals: the earlier arrival is served first."""
    with leases.acquire(ask(3)):
        first = start("holder.py", locks, 3, 3, 0, "first")
        wait_until(lambda: len(leases.table().waiting) == 1)
        (ticket,) = locks.glob("ticket-*")
        written = json.loads(ticket.read_text())
        written.update(since="2036-01-01T00:00:00+00:00", monotonic=time.monotonic() + 3e8)
        ticket.write_text(json.dumps(written))
        start("holder.py", locks, 3, 3, 0, "second")
        wait_until(lambda: len(leases.table().waiting) == 2)
        assert [(w.run_id, w.seconds >= 0) for w in leases.table().waiting] == [
            ("first", True),
            ("second", True),
        ]
    assert line_of(first).split()[0] == "first"


def test_two_projects_with_instances_of_their_own_lend_each_device_once(
    locks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    lent = []
    for name in ("one", "two"):
        (tmp_path / name / "tenants").mkdir(parents=True)
        host = {"gpus": [], "cpu_slots": 2, "lock_folder": str(locks)}
        (tmp_path / name / "ft_dagster.yaml").write_text(yaml.safe_dump({"host": host}))
        lent.append(Gpus(project=str(tmp_path / name)).leases())
    with lent[0].acquire(ask(1)) as first, lent[1].acquire(ask(1), should_stop=lambda: True) as second:
        assert {*first.devices, *second.devices} == {"0", "1"}
        with pytest.raises(WaitStopped):
            lent[1].acquire(ask(1), should_stop=lambda: True)


def test_instances_of_a_user_share_one_lock_folder_unless_told_otherwise(tmp_path: Path) -> None:
    folders = set()
    for name in ("one", "two"):
        (tmp_path / name / "tenants").mkdir(parents=True)
        folders.add(Gpus(project=str(tmp_path / name)).leases().folder)
    assert folders == {Path(f"/tmp/ft_dagster-leases-{os.getuid()}")}
