"""Leases: the right of one training to use devices of this host, for as long as its processes live.

The rule, in files of one folder that all instances of the host share:
- `allocator.lock` is held around every grant and whatever else changes who stands where.
- `<kind>-<device>.json`, one per device: a grant takes the EXCLUSIVE lock of each, writes its token into it
  and keeps a SHARED lock; every rank takes a SHARED lock of its own and checks the token (`hold_as_rank`). So
  a device is free only when neither the holder nor any process that used it lives. They are never removed.
- `<kind>-<device>.share-<n>.json`, one per share of a device: trainings that declare `sharing: shared` take a
  share in the same way, over a SHARED lock on the device's file, which then says so (device_locks.py). An
  exclusive grant needs that file alone: it comes when the last share is given back; its ticket keeps others
  from taking new ones. A share counts as a device in quotas, and has its part of the device's memory.
- `ticket-….json`, one per waiter (queue.py); at the grant it becomes `holder-<token>.json`, which its holder
  keeps locked.
- A tenant's quota counts its device files that are not free, whichever instance lent them, at the grant.

Deleting the folder while trainings run forgets them: do not. What the files say is for people and for the
token check; only the locks decide.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ft_dagster.errors import UserError
from ft_dagster.launch import queue, status
from ft_dagster.launch.device_locks import DeviceLock, lock_device, lock_share
from ft_dagster.launch.inventory import Device, Inventory, Kind, find_devices
from ft_dagster.launch.locks import locked, read_json, share, unlock, write_json
from ft_dagster.launch.rank import LEASE, LeaseLost, hold_as_rank

if TYPE_CHECKING:
    from ft_dagster.host_settings import Host
    from ft_dagster.spec import VariantKey
    from ft_dagster.spec.variant import ResourcesSpec

__all__ = ["Ask", "Lease", "LeaseLost", "Leases", "WaitStopped", "hold_as_rank", "of_host"]

DEFAULT_QUOTA = "default"  # in a table of quotas: of the tenants it does not name
ROOT, CONTAINER_MARKS = Path("/"), (Path("/.dockerenv"), Path("/run/.containerenv"))  # of Docker, Podman
POD = "KUBERNETES_SERVICE_HOST"  # in the environment of a pod, whose GPUs are its alone
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
PATIENCE = 60.0  # seconds for the allocator's lock, which is held for milliseconds


class WaitStopped(Exception):
    """`should_stop` ended the wait for a lease; nothing is held."""


@dataclass(frozen=True)
class Ask:
    """What one program wants: `count` devices at once, each with at least `memory_bytes` (where known).

    `gpu_kind`: of such a name (see Inventory.named); `shared`: beside others that share. `nodes`: of a
    cluster, with so many devices on each. `placed`: on nodes that Ray chooses, and under no lease.
    """

    variant: str
    tenant: str
    count: int
    priority: int
    reason: str
    run_id: str
    memory_bytes: int = 0
    gpu_kind: str | None = None
    shared: bool = False
    nodes: int = 1
    placed: bool = False


def ask_for(
    kind: Kind, slots: int, key: VariantKey, resources: ResourcesSpec, *, reason: str = "", run_id: str = ""
) -> Ask:
    """What a variant's `resources` come to in devices of a kind. `slots`: where it declares none."""
    gpu = kind == "gpu"
    return Ask(
        variant=str(key),
        tenant=key.tenant,
        count=resources.gpus if gpu else resources.cpu_slots or slots,
        priority=resources.priority,
        reason=reason,
        run_id=run_id,
        memory_bytes=int((resources.gpu_memory_gb or 0) * 1e9) if gpu else 0,
        gpu_kind=resources.gpu_kind if gpu else None,
        nodes=resources.nodes,
    )


class Lease:
    """Granted devices. Close it (`with`, or `release`) when the program that used them has ended."""

    def __init__(
        self, folder: Path, inventory: Inventory, taken: Mapping[Device, DeviceLock], token: str
    ) -> None:
        self.folder = folder
        self.kind: Kind = inventory.kind
        self.devices = tuple(device.id for device in taken)
        self.token = token
        self.threads = inventory.threads(len(taken))
        self._files = {n: t for claim in taken.values() for n, t in claim.tokens(token).items()}
        self._held = [held for claim in taken.values() for held in claim.descriptors()]
        self._sign: queue.Ticket | None = None

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
            **dict.fromkeys(THREADS, str(self.threads)),
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
    """The devices of `inventory`, lent through the lock files in `folder`.

    `quota`: devices that a tenant may hold at once, by tenant or `default`; not named: any number.
    `seen_here_alone`: other containers that see the same GPUs would not see who holds them.
    """

    def __init__(
        self,
        folder: Path,
        inventory: Inventory,
        *,
        quota: Mapping[str, int] | None = None,
        seen_here_alone: bool = False,
        poll_seconds: float = 0.2,
    ) -> None:
        self.folder = Path(folder).absolute()
        self.inventory = inventory
        self.quota = quota or {}
        self.seen_here_alone = seen_here_alone
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
        self._refuse_unseen()
        candidates = self.candidates(ask)
        ticket: queue.Ticket | None = None
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

    def table(self) -> status.Table:
        """Who holds which device, who waits, since when and why. Raises UserError as `acquire` does."""
        with self._allocator():
            files = {device: self._file(device) for device in self.inventory.devices}
            return status.read(self.folder, self.inventory, files)

    def most(self, tenant: str) -> int:
        """How many devices one program of a tenant can be granted."""
        limit = self._limit(tenant)
        return min(len(self.inventory.devices), limit or len(self.inventory.devices))

    def ask_of(self, key: VariantKey, resources: ResourcesSpec, reason: str = "", run_id: str = "") -> Ask:
        """What a variant's `resources` come to on this host: GPUs, or CPU slots (None: all it may have)."""
        slots = self.most(key.tenant)
        ask = ask_for(self.inventory.kind, slots, key, resources, reason=reason, run_id=run_id)
        return replace(ask, shared=resources.sharing == "shared")

    def candidates(self, ask: Ask) -> list[Device]:
        """The devices that would do. Raises UserError where the host can never serve the ask."""
        self._refuse_count(ask)
        named = self.inventory.named(ask.gpu_kind)
        if ask.count > len(named):
            here = ", ".join(sorted({device.name for device in self.inventory.devices}))
            raise UserError(
                f"{ask.variant} asks for {ask.count}, and {len(named)} of the GPUs here have such a name",
                field="resources.gpu_kind",
                value=ask.gpu_kind,
                fix=f"Here are: {here}",
            )
        if ask.count > 1:
            named = self._without_mig(ask, named)
        parts = self.inventory.shares if ask.shared else 1
        enough = [d for d in named if d.memory_bytes is None or d.memory_bytes // parts >= ask.memory_bytes]
        if ask.count > len(enough):
            each = f" in each of {parts} shares" if parts > 1 else ""
            raise UserError(
                f"only {len(enough)} of the {len(self.inventory.devices)} {self._what} here have that much "
                f"memory{each}",
                field="resources.gpu_memory_gb",
                value=ask.memory_bytes / 1e9,
                fix=f"{ask.variant} asks for {ask.count}: ask for less memory or fewer of them",
            )
        return enough

    def rooms(self, ask: Ask) -> int:
        """How many such programs have room at once. Raises UserError where the host can never serve one."""
        there = len(self.candidates(ask)) * (self.inventory.shares if ask.shared else 1)
        limit = self._limit(ask.tenant)  # each share of a device counts as one
        return max(1, (there if limit is None else min(there, limit)) // ask.count)

    def _without_mig(self, ask: Ask, named: tuple[Device, ...]) -> tuple[Device, ...]:
        """Those that are no MIG instance. Raises UserError for too few: CUDA shows a process one instance
        alone, and NCCL takes two of one GPU for the same device.
        """
        whole = tuple(device for device in named if not device.is_mig)
        if ask.count > len(whole):
            raise UserError(
                f"{ask.variant} asks for {ask.count}, and {len(named) - len(whole)} of the {len(named)} GPUs "
                "here are MIG instances, which one process alone can use",
                field="resources.gpus",
                value=ask.count,
                fix="Ask for 1, or lend whole GPUs",
            )
        return whole

    def _refuse_unseen(self) -> None:
        if self.inventory.kind == "gpu" and self.seen_here_alone:
            raise UserError(
                "in this container alone it is seen who holds a GPU, and others could lend the same",
                field="host.lock_folder",
                value=str(self.folder),
                fix="Mount one folder of the host there in each container that sees these GPUs, or name the "
                "folder in ft_dagster.yaml where only this one does",
            )

    def _refuse_count(self, ask: Ask) -> None:
        """Raises UserError for none, for more than there are, and for more than the tenant may hold."""
        if ask.nodes > 1:
            raise UserError(
                "this installation trains on one host",
                field="resources.nodes",
                value=ask.nodes,
                fix="Ask for 1, or have `launcher` name a cluster in ft_dagster.yaml",
            )
        field = "resources.gpus" if self.inventory.kind == "gpu" else "resources.cpu_slots"
        there, limit = len(self.inventory.devices), self._limit(ask.tenant)
        if ask.count < 1:
            raise UserError(
                "a lease is for one device at least", field=field, value=ask.count, fix="Ask for 1"
            )
        if ask.count > there:
            raise UserError(
                f"{ask.variant} asks for more {self._what} than this host lends",
                field=field,
                value=ask.count,
                fix=f"Ask for {there} at most, or lend more in ft_dagster.yaml (host)",
            )
        if limit is not None and ask.count > limit:
            raise UserError(
                f"{ask.tenant} may hold {limit} {self._what} at once on this host",
                field=field,
                value=ask.count,
                fix=f"Ask for {limit} at most, or have host.quota raised in ft_dagster.yaml",
            )

    @property
    def _what(self) -> str:
        return "GPUs" if self.inventory.kind == "gpu" else "CPU slots"

    def _join(
        self, allocator: int, ask: Ask, candidates: list[Device], fallen: queue.Ticket | None
    ) -> queue.Ticket:
        if fallen is not None:
            fallen.leave()
        wants = [self._file(device).name for device in candidates]
        content = {**asdict(ask), **_now(), "wants": wants, "quota": self._limit(ask.tenant)}
        return queue.join(self.folder, allocator, ask.priority, content)

    def _serve(self, ask: Ask, candidates: list[Device], ticket: queue.Ticket) -> tuple[Lease | None, str]:
        """Grant now, or say why not."""
        left, why = self._in_turn(ask, candidates, ticket)
        return (None, why) if why else self._take(ask, left, ticket)

    def _in_turn(self, ask: Ask, candidates: list[Device], ticket: queue.Ticket) -> tuple[list[Device], str]:
        """The devices that nobody ahead in line would take, or why it is not the ask's turn."""
        held = status.held_by_tenant(self.folder, self.inventory.kind)
        left, asked = candidates, Counter(held)
        for ahead, admitted in queue.in_turn(self.folder, asked, before=ticket.path):
            if not admitted:
                continue
            left = [device for device in left if not ahead.would_take(self._file(device).name)]
            if len(left) < ask.count:
                return [], f"in line behind {ahead.ticket.get('variant')}, which waits for {ahead.count}"
        limit, before = self._limit(ask.tenant), asked[ask.tenant]
        if not queue.within(limit, before + ask.count):
            return [], status.over_quota(ask.tenant, held[ask.tenant], before - held[ask.tenant], limit)
        return left, ""

    def _take(self, ask: Ask, left: list[Device], ticket: queue.Ticket) -> tuple[Lease | None, str]:
        """All devices at once or none."""
        taken: dict[Device, DeviceLock] = {}
        try:
            for device in self._preferred(ask, left):
                claim = self._claim(ask, device)
                if claim is not None:
                    taken[device] = claim
                if len(taken) == ask.count:
                    return self._grant(ask, taken, ticket), ""
        except BaseException:
            _drop(taken)
            raise
        _drop(taken)
        there = f"{len(self.inventory.devices)} {self._what}"
        grants = [status.grant_in(self._file(device)) for device in left if device not in taken]
        holders = sorted({str(grant["variant"]) for grant in grants if grant and grant.get("variant")})
        held = f"; held by {', '.join(holders)}" if holders else ""
        return None, f"needs {ask.count} of {there}, {len(taken)} free{held}"

    def _preferred(self, ask: Ask, left: list[Device]) -> list[Device]:
        """For a share first the devices that are lent in shares already, to leave others whole."""
        if not ask.shared:
            return left
        return sorted(left, key=lambda device: not status.in_shares(self._file(device)))

    def _claim(self, ask: Ask, device: Device) -> DeviceLock | None:
        file = self._file(device)
        return lock_share(file, self.inventory.shares) if ask.shared else lock_device(file)

    def _grant(self, ask: Ask, taken: Mapping[Device, DeviceLock], ticket: queue.Ticket) -> Lease:
        """Write the token into every file, then let ranks in beside us."""
        token = secrets.token_hex(16)
        lease = Lease(self.folder, self.inventory, taken, token)
        grant = {**asdict(ask), **_now(), "token": token, "devices": list(lease.devices)}
        own = [claim.descriptor for claim in taken.values()]
        for descriptor in own:
            before = str(read_json(descriptor).get("token", ""))
            if before.isalnum():  # its holder died without clearing its sign away
                (self.folder / status.holder_name(before)).unlink(missing_ok=True)
            write_json(descriptor, grant)
        sign = self.folder / status.holder_name(token)
        ticket.path.rename(sign)
        for descriptor in own:
            share(descriptor)
        lease._sign = queue.Ticket(sign, ticket.descriptor)
        return lease

    def _limit(self, tenant: str) -> int | None:
        return self.quota.get(tenant, self.quota.get(DEFAULT_QUOTA))

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


def of_host(host: Host) -> Leases:
    """The leases of the devices that the settings of this host name or leave to be found."""
    alone = "lock_folder" not in host.model_fields_set and _is_of_this_container(host.lock_folder)
    return Leases(host.lock_folder, find_devices(host), quota=host.quota, seen_here_alone=alone)


def _is_of_this_container(folder: Path) -> bool:
    """Whether it lies in a container's own files; a folder of the host is mounted from another device."""
    if POD in os.environ or not any(mark.exists() for mark in CONTAINER_MARKS):
        return False
    there = next(each for each in (folder, *folder.parents) if each.exists())
    return there.stat().st_dev == ROOT.stat().st_dev


def _drop(taken: Mapping[Device, DeviceLock]) -> None:
    for claim in taken.values():
        for descriptor in claim.descriptors():
            with suppress(OSError):
                unlock(descriptor)


def _device_file(kind: Kind, device: Device) -> str:
    return f"{kind}-{device.lock_name}.json"


def _now() -> dict[str, object]:
    """The moment for people, and for durations a clock that does not jump (Linux: since boot)."""
    return {"since": datetime.now(UTC).isoformat(timespec="seconds"), "monotonic": time.monotonic()}
