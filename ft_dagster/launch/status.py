"""Who holds the devices of this host and who waits: what the asset `gpus` and `ft-dagster gpus` show."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ft_dagster.launch import queue
from ft_dagster.launch.device_locks import IN_SHARES, share_files
from ft_dagster.launch.inventory import Device, Inventory, Kind
from ft_dagster.launch.locks import EXCLUSIVE, lock, read_json, unlock


@dataclass(frozen=True)
class Holding:
    """One device, or one share of it. `orphaned`: its holder is gone, and processes that use it still live.

    `sharing`: how it is lent now, empty where free; what shares are left is a row both free and shared.
    `since`: ISO 8601, UTC; `seconds`: for how long, by a clock that does not jump. Empty and 0 where free.
    """

    device: str
    name: str
    memory_bytes: int | None
    state: Literal["free", "held", "orphaned"]
    sharing: Literal["", "exclusive", "shared"] = ""
    variant: str = ""
    tenant: str = ""
    run_id: str = ""
    priority: int = 0
    since: str = ""
    seconds: float = 0.0
    why: str = ""


@dataclass(frozen=True)
class Waiting:
    """One program in the line, the next to be served first."""

    position: int
    variant: str
    tenant: str
    run_id: str
    priority: int
    count: int
    since: str
    seconds: float
    why: str


@dataclass(frozen=True)
class Table:
    """Shows one host: its devices with their holders, and the waiting trainings in order."""

    kind: Kind
    devices: tuple[Holding, ...]
    waiting: tuple[Waiting, ...]


def holder_name(token: str) -> str:
    """The file that is locked as long as the holder of a grant lives."""
    return f"holder-{token}.json"


def read(folder: Path, inventory: Inventory, files: Mapping[Device, Path]) -> Table:
    """The table now; the caller holds the allocator's lock."""
    rows = {file.name: list(_rows(device, file, inventory.shares)) for device, file in files.items()}
    held = held_by_tenant(folder, inventory.kind)
    whole = {name for name, found in rows.items() if found[0].state == "free" and not found[0].sharing}
    shares = {name for name, found in rows.items() if found[-1].state == "free"}
    devices = tuple(row for found in rows.values() for row in found)
    return Table(inventory.kind, devices, tuple(_waiting(folder, whole, shares, held)))


def held_by_tenant(folder: Path, kind: Kind) -> Counter[str]:
    """How many devices each tenant holds, of whichever instance; the caller has the allocator's lock."""
    grants = (grant_in(file) for file in sorted(folder.glob(f"{kind}-*.json")))
    return Counter(str(grant["tenant"]) for grant in grants if grant is not None and "tenant" in grant)


def grant_in(file: Path) -> dict[str, Any] | None:
    """What a device's file says of its holder; None where the device is free."""
    descriptor = lock(file, EXCLUSIVE)
    if descriptor is not None:
        unlock(descriptor)
        return None
    with file.open("rb") as content:
        return read_json(content.fileno())


def over_quota(tenant: str, held: int, ahead: int, quota: int | None) -> str:
    """Why a waiter is passed over. `ahead`: devices that its tenant's earlier asks wait for."""
    earlier = f" and waits for {ahead} more ahead of this" if ahead else ""
    return f"{tenant} holds {held} of the {quota} that it may hold at once (host.quota){earlier}"


def in_shares(file: Path) -> bool:
    """Whether the device of a file is lent in shares now."""
    return (grant_in(file) or {}).get("token") == IN_SHARES


def _rows(device: Device, file: Path, shares: int) -> Iterator[Holding]:
    grant = grant_in(file)
    if grant is None:
        yield _free(device)
    elif grant.get("token") != IN_SHARES:
        yield _holding(device, file.parent, grant, "exclusive")
    else:
        taken = [share for one in share_files(file) if (share := grant_in(one)) is not None]
        yield from (_holding(device, file.parent, share, "shared") for share in taken)
        if len(taken) < shares:
            yield replace(
                _free(device), sharing="shared", why=f"{shares - len(taken)} of {shares} shares left"
            )


def _free(device: Device) -> Holding:
    return Holding(device.id, device.name, device.memory_bytes, "free")


def _holding(
    device: Device, folder: Path, grant: dict[str, Any], sharing: Literal["exclusive", "shared"]
) -> Holding:
    token = str(grant.get("token", ""))
    orphaned = not token.isalnum() or queue.read_living(folder / holder_name(token)) is None
    why = str(grant.get("reason", ""))
    if orphaned:
        why = f"its holder is gone, processes of its program still use it (it was: {why})"
    return Holding(
        device.id,
        device.name,
        device.memory_bytes,
        "orphaned" if orphaned else "held",
        sharing,
        **_asked(grant),
        why=why,
    )


def _waiting(folder: Path, whole: set[str], shares: set[str], held: Counter[str]) -> Iterator[Waiting]:
    """A waiter's free devices are those that nobody ahead of it would take.

    `whole`: the files of devices that nobody uses; `shares`: of those with a share left.
    """
    ahead, asked = "", Counter(held)
    for position, (waiter, admitted) in enumerate(queue.in_turn(folder, asked), start=1):
        left = {name for name in (shares if waiter.shared else whole) if waiter.would_take(name)}
        short = f"needs {waiter.count}, {len(left)} free for it" + (f", behind {ahead}" if ahead else "")
        if not admitted:
            before = asked[waiter.tenant] - waiter.count - held[waiter.tenant]
            short = over_quota(waiter.tenant, held[waiter.tenant], before, waiter.quota)
        why = f"{waiter.ticket.get('reason', '')}: {short}"
        yield Waiting(position, count=waiter.count, **_asked(waiter.ticket), why=why)
        if admitted:
            whole, shares = ({n for n in names if not waiter.would_take(n)} for names in (whole, shares))
            ahead = str(waiter.ticket.get("variant", "?"))


def _asked(content: dict[str, Any]) -> dict[str, Any]:
    """The part that a grant and a ticket share."""
    started = content.get("monotonic")
    return {
        "variant": str(content.get("variant", "?")),
        "tenant": str(content.get("tenant", "?")),
        "run_id": str(content.get("run_id", "?")),
        "priority": int(content.get("priority", 0)),
        "since": str(content.get("since", "")),
        "seconds": max(0.0, time.monotonic() - started) if isinstance(started, float) else 0.0,
    }
