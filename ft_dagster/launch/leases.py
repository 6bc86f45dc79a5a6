"""Leases: the right of one training to use devices of this host, for as long as its processes live.

The rule, in files of one folder that all instances of the host share:
- `allocator.lock` is held around every grant and whatever else changes who stands where.
- `<kind>-<device>.json`, one per device: a grant takes the EXCLUSIVE lock of each, writes its token into it
  and keeps a SHARED lock; every rank takes a SHARED lock of its own and checks the token (`hold_as_rank`). So
  a device is free only when neither the holder nor any process that used it lives. They are never removed.
- `ticket-….json`, one per waiter (line.py); at the grant it becomes `holder-<token>.json`, which its holder
  keeps locked.

Deleting the folder while trainings run forgets them: do not. What the files say is for people and for the
token check; only the locks decide.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.launch import board, line
from ft_dagster.launch.inventory import Device, Inventory, Kind
from ft_dagster.launch.locks import EXCLUSIVE, lock, locked, read_json, share, unlock, write_json
from ft_dagster.launch.rank import LEASE, LeaseLost, hold_as_rank

__all__ = ["Ask", "Lease", "LeaseLost", "Leases", "WaitStopped", "hold_as_rank"]

PATIENCE = 60.0  # seconds for the allocator's lock, which is held for milliseconds


class WaitStopped(Exception):
    """`should_stop` ended the wait for a lease; nothing is held."""


@dataclass(frozen=True)
class Ask:
    """What one program wants: `count` devices at once, each with at least `memory_bytes` (where known)."""

    variant: str
    tenant: str
    count: int
    priority: int
    reason: str
    run_id: str
    memory_bytes: int = 0


class Lease:
    """Granted devices. Close it (`with`, or `release`) when the program that used them has ended.

    `threads`: how many one process should start; all slots of a CPU lease, a GPU's share of the cores.
    """

    def __init__(
        self, folder: Path, inventory: Inventory, devices: list[Device], token: str, held: list[int]
    ) -> None:
        self.folder = folder
        self.kind: Kind = inventory.kind
        self.devices = tuple(device.id for device in devices)
        self.token = token
        per_gpu = inventory.cores // len(inventory.devices)
        self.threads = len(devices) if self.kind == "cpu" else max(1, per_gpu)
        self._files = [_device_file(self.kind, device) for device in devices]
        self._held = held
        self._sign: line.Ticket | None = None

    def environment(self) -> dict[str, str]:
        """What a program under this lease needs in its environment; a CPU lease hides the GPUs."""
        lease = {
            "folder": str(self.folder),
            "token": self.token,
            "kind": self.kind,
            "devices": list(self.devices),
            "files": self._files,
        }
        return {
            LEASE: json.dumps(lease),
            "CUDA_VISIBLE_DEVICES": ",".join(self.devices) if self.kind == "gpu" else "",
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the order of NVML, by which `devices` count
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
        }

    def release(self) -> None:
        """Give up the holder's part; a device is free when its ranks are gone as well."""
        while self._held:
            unlock(self._held.pop())
        if self._sign is not None:
            self._sign.leave()
            self._sign = None

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Leases:
    """The devices of `inventory`, lent through the lock files in `folder`."""

    def __init__(self, folder: Path, inventory: Inventory, *, poll_seconds: float = 0.2) -> None:
        self.folder = Path(folder).absolute()
        self.inventory = inventory
        self.poll_seconds = poll_seconds

    def acquire(
        self,
        ask: Ask,
        on_wait: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Lease:
        """Wait in line for all devices at once. `on_wait` is told why it waits, whenever that changes.

        Raises UserError where the host can never serve the ask or the lock folder cannot be used, WaitStopped
        once `should_stop` says so.
        """
        candidates = self._candidates(ask)
        ticket: line.Ticket | None = None
        told = ""
        try:
            while True:
                with self._allocator() as allocator:
                    if ticket is None or not ticket.stands():
                        ticket = self._join(allocator, ask, candidates, ticket)
                    lease, why = self._serve(ask, candidates, ticket)
                if lease is not None:
                    ticket = None
                    return lease
                if why != told and on_wait is not None:
                    on_wait(why)
                    told = why
                if should_stop is not None and should_stop():
                    raise WaitStopped(why)
                time.sleep(self.poll_seconds)
        finally:
            if ticket is not None:
                ticket.leave()

    def table(self) -> board.Table:
        """Who holds which device, who waits, since when and why. Raises UserError as `acquire` does."""
        with self._allocator():
            files = {device: self._file(device) for device in self.inventory.devices}
            return board.read(self.folder, self.inventory.kind, files)

    def _candidates(self, ask: Ask) -> list[Device]:
        """The devices that would do. Raises UserError where there are too few of them."""
        devices = self.inventory.devices
        gpu = self.inventory.kind == "gpu"
        field, what = ("resources.gpus", "GPUs") if gpu else ("resources.cpu_slots", "CPU slots")
        if ask.count < 1:
            raise UserError(
                "a lease is for one device at least", field=field, value=ask.count, fix="Ask for 1"
            )
        if ask.count > len(devices):
            raise UserError(
                f"{ask.variant} asks for more {what} than this host lends",
                field=field,
                value=ask.count,
                fix=f"Ask for {len(devices)} at most, or lend more in ft_dagster.yaml (host)",
            )
        enough = [d for d in devices if d.memory_bytes is None or d.memory_bytes >= ask.memory_bytes]
        if ask.count > len(enough):
            raise UserError(
                f"only {len(enough)} of the {len(devices)} {what} here have that much memory",
                field="resources.gpu_memory_gb",
                value=ask.memory_bytes / 1e9,
                fix=f"{ask.variant} asks for {ask.count}: ask for less memory or fewer of them",
            )
        return enough

    def _join(
        self, allocator: int, ask: Ask, candidates: list[Device], fallen: line.Ticket | None
    ) -> line.Ticket:
        if fallen is not None:
            fallen.leave()
        content = {**asdict(ask), **_now(), "wants": [self._file(device).name for device in candidates]}
        return line.join(self.folder, allocator, ask.priority, content)

    def _serve(self, ask: Ask, candidates: list[Device], ticket: line.Ticket) -> tuple[Lease | None, str]:
        """Grant now, or say why not. A device that someone ahead in line would take is left to them."""
        left = candidates
        for ahead in line.waiters(self.folder, before=ticket.path):
            left = [device for device in left if not ahead.would_take(self._file(device).name)]
            if len(left) < ask.count:
                other = ahead.ticket
                return None, f"in line behind {other.get('variant')}, which waits for {other.get('count')}"
        token = secrets.token_hex(16)
        held: list[int] = []
        taken: list[Device] = []
        try:
            for device in left:
                descriptor = lock(self._file(device), EXCLUSIVE)
                if descriptor is not None:
                    held.append(descriptor)
                    taken.append(device)
                if len(taken) == ask.count:
                    return self._grant(ask, taken, token, held, ticket), ""
        except BaseException:
            _drop(held)
            raise
        _drop(held)
        what = "GPUs" if self.inventory.kind == "gpu" else "CPU slots"
        return None, f"needs {ask.count} of {len(self.inventory.devices)} {what}, {len(taken)} free"

    def _grant(
        self, ask: Ask, devices: list[Device], token: str, held: list[int], ticket: line.Ticket
    ) -> Lease:
        """Write the token into every device file, then let ranks in beside us."""
        lease = Lease(self.folder, self.inventory, devices, token, held)
        grant = {**asdict(ask), **_now(), "token": token, "devices": list(lease.devices)}
        for descriptor in held:
            before = str(read_json(descriptor).get("token", ""))
            if before.isalnum():  # its holder died without clearing its sign away
                (self.folder / board.holder_name(before)).unlink(missing_ok=True)
            write_json(descriptor, grant)
        sign = self.folder / board.holder_name(token)
        ticket.path.rename(sign)
        for descriptor in held:
            share(descriptor)
        lease._sign = line.Ticket(sign, ticket.descriptor)
        return lease

    def _file(self, device: Device) -> Path:
        return self.folder / _device_file(self.inventory.kind, device)

    @contextmanager
    def _allocator(self) -> Iterator[int]:
        """The allocator's lock; every trouble with the folder becomes a UserError."""
        file = self.folder / "allocator.lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(file, PATIENCE) as descriptor:
                yield descriptor
        except TimeoutError:
            fix = f"See who holds it with `fuser -v {file}` and end or continue that process"
            raise UserError(f"locked for {PATIENCE:.0f} s by another process", file=file, fix=fix) from None
        except OSError as error:
            raise UserError(
                f"the lock folder cannot be used: {error.strerror or error}",
                field="host.lock_folder",
                value=str(self.folder),
                fix="Name a folder on a local disk that this user may write to",
            ) from error


def _drop(held: list[int]) -> None:
    while held:
        with suppress(OSError):
            unlock(held.pop())


def _device_file(kind: Kind, device: Device) -> str:
    return f"{kind}-{device.lock_name}.json"


def _now() -> dict[str, Any]:
    """The moment for people, and for durations a clock that does not jump (Linux: since boot)."""
    return {"since": datetime.now(UTC).isoformat(timespec="seconds"), "monotonic": time.monotonic()}
