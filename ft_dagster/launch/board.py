"""Who holds the devices of this host and who waits for them: what the board and `ft-dagster gpus` show."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ft_dagster.launch import line
from ft_dagster.launch.inventory import Device, Kind
from ft_dagster.launch.locks import EXCLUSIVE, lock, read_json, unlock


@dataclass(frozen=True)
class Holding:
    """One device. `orphaned`: its holder is gone, and processes that use it still live.

    `since`: ISO 8601, UTC; `seconds`: for how long, by a clock that does not jump. Empty and 0 where free.
    """

    device: str
    name: str
    memory_bytes: int | None
    state: Literal["free", "held", "orphaned"]
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
    kind: Kind
    devices: tuple[Holding, ...]
    waiting: tuple[Waiting, ...]


def holder_name(token: str) -> str:
    """The file that is locked as long as the holder of a grant lives."""
    return f"holder-{token}.json"


def read(folder: Path, kind: Kind, files: Mapping[Device, Path]) -> Table:
    """The table now; the caller holds the allocator's lock."""
    devices = tuple(_holding(folder, device, file) for device, file in files.items())
    free = {files[device].name for device, row in zip(files, devices, strict=True) if row.state == "free"}
    return Table(kind, devices, tuple(_waiting(folder, free)))


def _holding(folder: Path, device: Device, file: Path) -> Holding:
    descriptor = lock(file, EXCLUSIVE)
    if descriptor is not None:
        unlock(descriptor)
        return Holding(device.id, device.name, device.memory_bytes, "free")
    with file.open("rb") as content:
        grant = read_json(content.fileno())
    token = str(grant.get("token", ""))
    orphaned = not token.isalnum() or line.read_living(folder / holder_name(token)) is None
    why = str(grant.get("reason", ""))
    if orphaned:
        why = f"its holder is gone, processes of its program still use it (it was: {why})"
    return Holding(
        device.id,
        device.name,
        device.memory_bytes,
        "orphaned" if orphaned else "held",
        **_asked(grant),
        why=why,
    )


def _waiting(folder: Path, free: set[str]) -> Iterator[Waiting]:
    """A waiter's free devices are those that nobody ahead of it would take."""
    ahead = ""
    for position, waiter in enumerate(line.waiters(folder), start=1):
        count = int(waiter.ticket.get("count", 0))
        left = {name for name in free if waiter.would_take(name)}
        reason = waiter.ticket.get("reason", "")
        short = f"needs {count}, {len(left)} free for it"
        yield Waiting(
            position,
            count=count,
            **_asked(waiter.ticket),
            why=f"{reason}: {short}" + (f", behind {ahead}" if ahead else ""),
        )
        free = free - left
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
