"""Leases between real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import pytest

from ft_dagster.errors import UserError
from ft_dagster.host_settings import Host
from ft_dagster.launch import leases as leases_module
from ft_dagster.launch.inventory import Device, Inventory
from ft_dagster.launch.leases import Ask, Lease, Leases, WaitStopped, of_host
from tests.launch.helpers import PROGRAMS, ask, line_of, lives, slots, wait_until

pytestmark = pytest.mark.slow

Start = Callable[..., "subprocess.Popen[str]"]


def states(leases: Leases) -> list[str]:
    return [device.state for device in leases.table().devices]


def waiting(leases: Leases) -> list[str]:
    return [waiter.run_id for waiter in leases.table().waiting]


def is_waiting(leases: Leases, name: str) -> bool:
    return name in waiting(leases)


def refused_reason(leases: Leases, count: int) -> str:
    """Why an ask has to wait; fails where it is served."""
    with pytest.raises(WaitStopped) as stopped:
        leases.acquire(ask(count, "late"), should_stop=lambda: True)
    return str(stopped.value)


def start_rank(lease: Lease) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **lease.environment()}
    return subprocess.run(
        [sys.executable, PROGRAMS / "rank.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_devices_are_granted_all_or_none(leases: Leases) -> None:
    with leases.acquire(ask(2)):
        assert refused_reason(leases, 2) == "needs 2 of 3 CPU slots, 1 free; held by acme.support"
        assert states(leases) == ["held", "held", "free"]
        with leases.acquire(ask(1)) as last:
            assert last.devices == ("2",)
    assert states(leases) == ["free", "free", "free"]


def test_a_released_lease_leaves_only_allocator_and_device_files(leases: Leases, locks: Path) -> None:
    leases.acquire(ask(2)).release()
    assert sorted(path.name for path in locks.iterdir()) == ["allocator.lock", "cpu-0.json", "cpu-1.json"]


def test_an_error_in_the_program_releases_its_lease(leases: Leases) -> None:
    with pytest.raises(KeyboardInterrupt), leases.acquire(ask(3)):
        raise KeyboardInterrupt
    assert states(leases) == ["free", "free", "free"]


def test_an_interrupted_wait_leaves_the_line(leases: Leases) -> None:
    def interrupt(why: str) -> None:
        raise KeyboardInterrupt

    with leases.acquire(ask(3)):
        with pytest.raises(KeyboardInterrupt):
            leases.acquire(ask(1), on_wait=interrupt)
        assert waiting(leases) == []


def test_a_waiter_hears_why_it_waits_once_per_reason(leases: Leases) -> None:
    heard: list[str] = []
    looks = iter(range(5))
    with leases.acquire(ask(3)), pytest.raises(WaitStopped):
        leases.acquire(ask(1), on_wait=heard.append, should_stop=lambda: next(looks) == 4)
    assert heard == ["needs 1 of 3 CPU slots, 0 free; held by acme.support"]


def test_the_line_serves_priority_first_then_arrival(leases: Leases, locks: Path, start: Start) -> None:
    first = leases.acquire(ask(3))
    started = []
    for name, priority in [("early", 0), ("late", 0), ("urgent", 5)]:
        started.append(start("holder.py", locks, 3, 3, priority, name))
        wait_until(partial(is_waiting, leases, name))
    assert waiting(leases) == ["urgent", "early", "late"]
    first.release()
    for process, name in [(started[2], "urgent"), (started[0], "early"), (started[1], "late")]:
        assert line_of(process).split()[0] == name
        process.kill()


def test_a_higher_priority_overtakes_many_earlier_arrivals_but_not_all(
    leases: Leases, locks: Path, start: Start
) -> None:
    with leases.acquire(ask(3)):
        start("holder.py", locks, 3, 3, 0, "disturbed")
        wait_until(lambda: "disturbed" in waiting(leases))
        (locks / "allocator.lock").write_text('{"sequence": 5000}')
        for name, priority in [("higher", 1), ("urgent", 50)]:
            start("holder.py", locks, 3, 3, priority, name)
            wait_until(partial(is_waiting, leases, name))
        assert waiting(leases) == ["urgent", "disturbed", "higher"]


def test_a_small_ask_does_not_starve_a_large_one_ahead_of_it(
    leases: Leases, locks: Path, start: Start
) -> None:
    with leases.acquire(ask(1)):
        large = start("holder.py", locks, 3, 3, 0, "large")
        wait_until(lambda: "large" in waiting(leases))
        assert refused_reason(leases, 1) == "in line behind acme.large, which waits for 3"
    assert line_of(large).split()[0] == "large"


def test_a_waiter_does_not_block_devices_it_cannot_use(locks: Path) -> None:
    small, big = Device("0", 10 * 10**9, "small"), Device("1", 80 * 10**9, "big")
    leases = Leases(locks, Inventory("gpu", (small, big)), poll_seconds=0.02)
    with leases.acquire(ask(1, memory_bytes=40 * 10**9)) as held:
        assert held.devices == ("1",)

        def look(why: str) -> None:
            with leases.acquire(ask(1, "modest"), should_stop=lambda: True) as beside:
                assert beside.devices == ("0",)
            raise WaitStopped

        with pytest.raises(WaitStopped):
            leases.acquire(ask(1, "demanding", memory_bytes=40 * 10**9), on_wait=look)


def test_the_ticket_of_a_dead_waiter_is_skipped_and_removed(
    leases: Leases, locks: Path, start: Start
) -> None:
    with leases.acquire(ask(1)):
        waiter = start("holder.py", locks, 3, 3, 50, "dead")
        wait_until(lambda: "dead" in waiting(leases))
        waiter.kill()
        waiter.wait()
        with leases.acquire(ask(2), should_stop=lambda: True) as lease:
            assert len(lease.devices) == 2
    assert not list(locks.glob("ticket-*"))


def test_a_killed_holder_without_ranks_frees_its_devices(leases: Leases, locks: Path, start: Start) -> None:
    holder = start("holder.py", locks, 3, 3, 0, "holder")
    assert line_of(holder)
    assert states(leases) == ["held"] * 3
    holder.kill()
    holder.wait()
    assert states(leases) == ["free"] * 3
    with leases.acquire(ask(3)):
        assert len(list(locks.glob("holder-*"))) == 1


def test_devices_of_a_killed_holder_are_not_free_until_its_rank_is_gone(
    leases: Leases, locks: Path, start: Start
) -> None:
    holder = start("holder.py", locks, 3, 2, 0, "holder", "rank")
    rank = int(line_of(holder).split()[1])
    try:
        holder.kill()
        holder.wait()
        assert lives(rank)
        assert states(leases) == ["orphaned", "orphaned", "free"]
        assert refused_reason(leases, 2) == "needs 2 of 3 CPU slots, 1 free; held by acme.holder"
    finally:
        os.kill(rank, 9)
    wait_until(lambda: not lives(rank))
    with leases.acquire(ask(3)) as lease:
        assert len(lease.devices) == 3


def test_a_rank_dies_with_the_process_that_started_it(leases: Leases, locks: Path, start: Start) -> None:
    with leases.acquire(ask(1)) as lease:
        agent = start("agent.py", env={**os.environ, **lease.environment()})
        rank = int(line_of(agent))
        agent.kill()
        wait_until(lambda: not lives(rank))


def test_a_rank_refuses_a_device_that_was_granted_to_another(leases: Leases) -> None:
    old = leases.acquire(ask(2))
    old.release()
    with leases.acquire(ask(3)):
        late = start_rank(old)
    assert late.returncode == 75
    assert "was granted to another" in late.stderr
    assert late.stdout == ""


def test_a_rank_refuses_to_start_when_its_supervisor_is_gone(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setenv("FT_DAGSTER_SUPERVISOR", str(gone.pid))
    with leases.acquire(ask(1)) as lease:
        late = start_rank(lease)
    assert (late.returncode, "its launcher is gone" in late.stderr) == (75, True)


def test_a_cpu_lease_sets_threads_and_hides_gpus(leases: Leases) -> None:
    with leases.acquire(ask(2)) as lease:
        environment = lease.environment()
    assert (environment["OMP_NUM_THREADS"], environment["MKL_NUM_THREADS"]) == ("2", "2")
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert json.loads(environment["FT_DAGSTER_LEASE"])["devices"] == ["0", "1"]


def test_a_gpu_lease_shows_its_gpus_alone_and_has_their_shares_of_the_cores(locks: Path) -> None:
    """For all its processes together: a training of several divides them among its ranks."""
    gpus = tuple(Device(str(n), 80 * 10**9, "GPU", f"GPU-{n}") for n in range(4))
    leases = Leases(locks, Inventory("gpu", gpus, cores=32))
    with leases.acquire(ask(1)), leases.acquire(ask(2)) as lease:
        environment = lease.environment()
    assert environment["CUDA_VISIBLE_DEVICES"] == "1,2"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert environment["OMP_NUM_THREADS"] == "16"


def test_mig_instances_are_lent_one_to_a_training(locks: Path) -> None:
    instances = tuple(Device(f"MIG-{n}", 10**10, "GPU MIG 1g.10gb", f"MIG-{n}") for n in range(2))
    cut = Leases(locks, Inventory("gpu", instances, cores=8))
    with cut.acquire(ask(1)) as lease:
        assert lease.environment()["CUDA_VISIBLE_DEVICES"] == "MIG-0"
    with pytest.raises(UserError, match="2 of the 2 GPUs here are MIG instances") as error:
        cut.candidates(ask(2))
    assert (error.value.field, error.value.value) == ("resources.gpus", 2)


def test_several_gpus_are_taken_from_the_whole_ones(locks: Path) -> None:
    devices = (Device("MIG-0", 10**10, "GPU"), Device("1", 10**10, "GPU"), Device("2", 10**10, "GPU"))
    assert [d.id for d in Leases(locks, Inventory("gpu", devices)).candidates(ask(2))] == ["1", "2"]


def test_two_names_of_one_gpu_are_one_device(locks: Path) -> None:
    by_index = Leases(locks, Inventory("gpu", (Device("0", None, "GPU", "GPU-ab"),)))
    in_a_container = Leases(locks, Inventory("gpu", (Device("3", None, "GPU", "GPU-ab"),)))
    with by_index.acquire(ask(1)):
        assert states(in_a_container) == ["held"]


@pytest.mark.parametrize(
    ("kind", "wanted", "field"),
    [
        ("cpu", ask(4), "resources.cpu_slots"),
        ("gpu", ask(4), "resources.gpus"),
        ("gpu", ask(2, memory_bytes=40 * 10**9), "resources.gpu_memory_gb"),
    ],
)
def test_an_ask_that_this_host_can_never_serve_is_refused(
    locks: Path, kind: Literal["gpu", "cpu"], wanted: Ask, field: str
) -> None:
    devices = tuple(Device(str(n), 20 * 10**9, "device") for n in range(3))
    with pytest.raises(UserError) as error:
        Leases(locks, Inventory(kind, devices)).acquire(wanted)
    assert error.value.field == field


def test_a_lock_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError) as error:
            Leases(folder, slots(1)).acquire(ask(1))
        assert error.value.field == "host.lock_folder"


def test_a_stale_lock_folder_works(leases: Leases, locks: Path) -> None:
    locks.mkdir()
    (locks / "allocator.lock").write_text("torn {")
    (locks / "cpu-0.json").write_text('{"token": "../../x"}')
    (locks / "cpu-1.json").write_text("")
    (locks / "ticket-000000000001-000000000001.json").write_text("{")
    (locks / "holder-0123.json").write_text("{}")
    with leases.acquire(ask(3)) as lease:
        assert len(lease.devices) == 3


def test_a_lock_folder_removed_under_a_waiter_is_made_again(leases: Leases, locks: Path) -> None:
    def remove(why: str) -> None:
        for path in locks.iterdir():
            path.unlink()
        locks.rmdir()

    with leases.acquire(ask(3)), leases.acquire(ask(3), on_wait=remove) as lease:
        assert len(lease.devices) == 3


def test_a_clock_that_jumps_changes_neither_order_nor_durations(
    leases: Leases, locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with leases.acquire(ask(3)):
        before = leases.table().devices[0].seconds
        monkeypatch.setattr(time, "time", lambda: 0.0)
        for path in locks.iterdir():
            os.utime(path, (0, 0))
        after = leases.table().devices[0].seconds
    assert 0 <= before <= after < 60


def test_the_table_tells_who_holds_who_waits_since_when_and_why(
    leases: Leases, locks: Path, start: Start
) -> None:
    with leases.acquire(ask(2, "first")):
        start("holder.py", locks, 3, 3, 7, "second")
        wait_until(lambda: "second" in waiting(leases))
        table = leases.table()
    held, waiter = table.devices[0], table.waiting[0]
    assert (table.kind, held.device, held.state) == ("cpu", "0", "held")
    assert (held.variant, held.tenant, held.run_id, held.why) == ("acme.first", "acme", "first", "a test")
    assert held.since.endswith("+00:00")
    assert table.devices[2].state == "free"
    assert (waiter.position, waiter.variant, waiter.priority, waiter.count) == (1, "acme.second", 7, 3)
    assert waiter.why == "a test: needs 3, 1 free for it"


@pytest.mark.long
def test_thirty_jobs_on_three_slots_are_never_over_booked(tmp_path: Path, start: Start) -> None:
    jobs = [start("job.py", tmp_path, 3, 1 + number % 3) for number in range(30)]
    assert [job.wait(timeout=120) for job in jobs] == [0] * 30


@pytest.mark.parametrize(
    ("devices", "asked", "quota", "rooms"),
    [
        (slots(4), ask(1), {}, 4),
        (slots(4), ask(2), {}, 2),
        (slots(4), ask(3), {}, 1),
        (slots(4), ask(1), {"acme": 2}, 2),
        (replace(slots(2), shares=3), replace(ask(1), shared=True), {}, 6),
        (replace(slots(2), shares=3), replace(ask(1), shared=True), {"acme": 2}, 2),
        (replace(slots(2), shares=3), ask(1), {}, 2),
    ],
)
def test_so_many_programs_have_room_at_once(
    locks: Path, devices: Inventory, asked: Ask, quota: dict[str, int], rooms: int
) -> None:
    leases = Leases(locks, devices, quota=quota)
    assert leases.rooms(asked) == rooms
    held = [leases.acquire(asked, should_stop=lambda: True) for _ in range(rooms)]
    with pytest.raises(WaitStopped):
        leases.acquire(asked, should_stop=lambda: True)
    for lease in held:
        lease.release()


@pytest.mark.parametrize("where", ["alone", "a folder is named", "a pod", "a CPU"])
def test_a_gpu_is_not_lent_where_other_containers_cannot_see_it(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's own files are on the device of its root; a folder of the host is on another."""
    mark = tmp_path / ".dockerenv"
    mark.touch()
    monkeypatch.setattr(leases_module, "CONTAINER_MARKS", (tmp_path / "none", mark))
    monkeypatch.setattr(leases_module, "ROOT", Path("/tmp"))
    monkeypatch.delenv(leases_module.POD, raising=False)
    if where == "a pod":
        monkeypatch.setenv(leases_module.POD, "10.0.0.1")
    found = Inventory("cpu" if where == "a CPU" else "gpu", (Device("0", None, "it", "GPU-0"),))
    monkeypatch.setattr(leases_module, "find_devices", lambda host: found)
    named = Host(lock_folder=Path("/tmp/locks-of-nobody"))
    leases = of_host(named if where == "a folder is named" else Host())
    if where != "alone":
        assert not leases.seen_here_alone or where == "a CPU"
        return
    with pytest.raises(UserError, match="others could lend the same") as error:
        leases.acquire(ask(1))
    assert error.value.field == "host.lock_folder"


def test_a_mounted_folder_is_seen_by_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(leases_module, "CONTAINER_MARKS", (tmp_path,))
    monkeypatch.setattr(leases_module, "ROOT", Path("/proc"))  # of another device than /tmp
    monkeypatch.delenv(leases_module.POD, raising=False)
    assert not of_host(Host()).seen_here_alone
