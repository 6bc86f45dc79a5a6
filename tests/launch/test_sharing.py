"""Shares of a device: together with other shares, never with who has it alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.launch.inventory import Device, Inventory
from ft_dagster.launch.leases import Ask, Lease, Leases, WaitStopped
from tests.launch.helpers import PROGRAMS, ask, line_of, slots, wait_until
from tests.present import present

Start = Callable[..., "subprocess.Popen[str]"]


def shared(name: str = "support", **more: Any) -> Ask:
    return replace(ask(name=name, **more), shared=True)


@pytest.fixture
def leases(locks: Path) -> Leases:
    """Two CPU slots of two shares each."""
    return Leases(locks, replace(slots(2), shares=2), poll_seconds=0.02)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as held:
        yield held


def at_once(leases: Leases, wanted: Ask) -> Lease:
    """The lease, if it can be had now."""
    return leases.acquire(wanted, should_stop=lambda: True)


def rank_of(lease: Lease, start: Start) -> subprocess.Popen[str]:
    return start("rank.py", env={**os.environ, **lease.environment()}, stderr=subprocess.PIPE)


def states(leases: Leases) -> list[tuple[str, str, str]]:
    return [(device.device, device.state, device.sharing) for device in leases.table().devices]


def test_shares_fill_one_device_before_they_take_another(leases: Leases, stack: ExitStack) -> None:
    taken = [stack.enter_context(at_once(leases, shared())).devices for _ in range(3)]
    assert taken == [("0",), ("0",), ("1",)]


def test_no_more_than_the_declared_number_of_trainings_share_a_device(
    leases: Leases, stack: ExitStack
) -> None:
    for _ in range(4):
        stack.enter_context(at_once(leases, shared()))
    with pytest.raises(WaitStopped, match="needs 1 of 2 CPU slots, 0 free"):
        at_once(leases, shared("fifth"))


def test_a_share_never_goes_with_who_has_the_device_alone(leases: Leases, stack: ExitStack) -> None:
    stack.enter_context(at_once(leases, ask()))
    assert stack.enter_context(at_once(leases, shared())).devices == ("1",)
    assert stack.enter_context(at_once(leases, shared())).devices == ("1",)
    for wanted in (shared("more"), ask(name="alone")):
        with pytest.raises(WaitStopped):
            at_once(leases, wanted)


def test_a_device_is_had_alone_once_its_last_share_is_given_back(leases: Leases) -> None:
    first, second = at_once(leases, shared()), at_once(leases, shared())
    first.release()
    with pytest.raises(WaitStopped):
        at_once(leases, ask(2))
    second.release()
    with at_once(leases, ask(2)) as both:
        assert both.devices == ("0", "1")


def test_all_or_none_holds_for_shares_too(leases: Leases, stack: ExitStack) -> None:
    stack.enter_context(at_once(leases, ask()))
    with pytest.raises(WaitStopped, match="needs 2 of 2 CPU slots, 1 free"):
        at_once(leases, replace(shared(), count=2))
    with at_once(leases, ask()) as other:
        assert other.devices == ("1",)


def test_shares_do_not_starve_who_wants_the_device_alone(
    leases: Leases, stack: ExitStack, start: Start
) -> None:
    stack.enter_context(at_once(leases, shared()))
    large = start("holder.py", leases.folder, 2, 2, 0, "large")
    wait_until(lambda: leases.table().waiting)
    with pytest.raises(WaitStopped, match=r"in line behind acme\.large"):
        at_once(leases, shared("late"))
    stack.close()
    assert line_of(large).split()[0] == "large"


def test_a_device_is_not_had_alone_while_a_rank_of_a_share_lives(leases: Leases, start: Start) -> None:
    lease = at_once(leases, shared())
    rank = rank_of(lease, start)
    assert line_of(rank) == "holding\n"
    lease.release()
    assert states(leases)[0] == ("0", "orphaned", "shared")
    with pytest.raises(WaitStopped):
        at_once(leases, ask(2))
    rank.kill()
    rank.wait()
    at_once(leases, ask(2)).release()


def test_a_late_rank_of_a_share_refuses_a_device_that_another_has_alone(leases: Leases, start: Start) -> None:
    old = at_once(leases, shared())
    old.release()
    with at_once(leases, ask(2)):
        late = rank_of(old, start)
        assert late.wait(30) == 75
    assert "was granted to another" in present(late.stderr).read()


@pytest.mark.parametrize("alone_first", [True, False])
def test_an_instance_that_lends_no_shares_does_not_over_book_one_that_does(
    locks: Path, alone_first: bool
) -> None:
    sharing, other = Leases(locks, replace(slots(1), shares=4)), Leases(locks, slots(1))
    first, second = (other, ask()), (sharing, shared())
    if not alone_first:
        first, second = second, first
    with at_once(*first), pytest.raises(WaitStopped):
        at_once(*second)


def test_a_share_counts_as_a_device_in_its_tenants_quota(locks: Path, stack: ExitStack) -> None:
    leases = Leases(locks, replace(slots(2), shares=4), quota={"acme": 2})
    for _ in range(2):
        stack.enter_context(at_once(leases, shared()))
    with pytest.raises(WaitStopped, match="acme holds 2 of the 2"):
        at_once(leases, shared("third"))
    stack.enter_context(at_once(leases, shared(tenant="globex")))


def test_the_table_has_a_row_for_each_share_taken_and_says_how_many_are_left(
    leases: Leases, stack: ExitStack
) -> None:
    stack.enter_context(at_once(leases, shared("first")))
    held, left, free = leases.table().devices
    assert (held.device, held.state, held.sharing, held.variant) == ("0", "held", "shared", "acme.first")
    assert (left.device, left.state, left.why) == ("0", "free", "1 of 2 shares left")
    assert (free.device, free.state, free.sharing) == ("1", "free", "")


def test_a_share_has_its_part_of_the_memory(locks: Path) -> None:
    gpu = Device("0", 80 * 10**9, "NVIDIA A100-SXM4-80GB")
    leases = Leases(locks, Inventory("gpu", (gpu,), shares=4))
    at_once(leases, shared(memory_bytes=20 * 10**9)).release()
    with pytest.raises(UserError, match="in each of 4 shares") as error:
        at_once(leases, shared(memory_bytes=21 * 10**9))
    assert error.value.field == "resources.gpu_memory_gb"
    at_once(leases, ask(memory_bytes=80 * 10**9)).release()


@pytest.mark.parametrize(
    ("kind", "devices"), [("a100", "0"), ("H100", "1"), ("L4 | H100", "1"), ("nvidia", "0,1"), (None, "0,1")]
)
def test_only_gpus_of_the_declared_kind_are_leased(locks: Path, kind: str | None, devices: str) -> None:
    gpus = (Device("0", None, "NVIDIA A100-SXM4-80GB"), Device("1", None, "NVIDIA H100 PCIe"))
    count = len(devices.split(","))
    with at_once(Leases(locks, Inventory("gpu", gpus)), replace(ask(count), gpu_kind=kind)) as lease:
        assert lease.environment()["CUDA_VISIBLE_DEVICES"] == devices


def test_a_kind_of_gpu_that_is_not_there_is_refused_with_those_that_are(locks: Path) -> None:
    leases = Leases(locks, Inventory("gpu", (Device("0", None, "NVIDIA A10G"),)))
    with pytest.raises(UserError, match="Here are: NVIDIA A10G") as error:
        at_once(leases, replace(ask(), gpu_kind="A100"))
    assert (error.value.field, error.value.value) == ("resources.gpu_kind", "A100")


def test_a_kind_of_gpu_says_nothing_about_cpu_slots(locks: Path) -> None:
    at_once(Leases(locks, slots(1)), replace(ask(), gpu_kind="A100")).release()


def test_a_killed_holder_of_a_share_gives_it_back(leases: Leases, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from dataclasses import replace\n"
        "from tests.launch.helpers import ask, slots; from ft_dagster.launch.leases import Leases\n"
        "leases = Leases(Path(sys.argv[1]), replace(slots(2), shares=2))\n"
        "lease = leases.acquire(replace(ask(), shared=True))\n"
        "print('holding', flush=True); time.sleep(60)"
    )
    root = Path(PROGRAMS).parents[2]
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(leases.folder)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    try:
        assert line_of(holder) == "holding\n"
        assert states(leases)[0] == ("0", "held", "shared")
    finally:
        holder.kill()
        holder.wait()
        present(holder.stdout).close()
    assert states(leases) == [("0", "free", ""), ("1", "free", "")]
