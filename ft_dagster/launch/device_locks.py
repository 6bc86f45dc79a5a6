"""How one device, or a share of one, is taken: by locks on its files. The caller holds the allocator's lock.

A whole device is its file, locked EXCLUSIVE. A share is a file of its own beside it, locked EXCLUSIVE, over a
SHARED lock on the device's file, which then says that it is lent in shares. So shares go together, up to the
declared number, and never with a whole device.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ft_dagster.launch.locks import EXCLUSIVE, SHARED, lock, read_json, share, unlock, write_json

IN_SHARES = "shared"  # the token in the file of a device that is lent in shares


@dataclass(frozen=True)
class DeviceLock:
    """`own` is the file that gets the token of the grant; `beneath`, of a share, the device's file."""

    own: Path
    descriptor: int
    beneath: tuple[Path, int] | None = None

    def tokens(self, token: str) -> dict[str, str]:
        """File name -> the token that a rank must find in it."""
        below = {self.beneath[0].name: IN_SHARES} if self.beneath else {}
        return {**below, self.own.name: token}

    def descriptors(self) -> list[int]:
        return [self.descriptor, *([self.beneath[1]] if self.beneath else [])]


def lock_device(device: Path) -> DeviceLock | None:
    """The device of a file, None where anybody uses it."""
    descriptor = lock(device, EXCLUSIVE)
    return None if descriptor is None else DeviceLock(device, descriptor)


def lock_share(device: Path, shares: int) -> DeviceLock | None:
    """One of the device's shares, None where none is free or somebody has the whole."""
    with ExitStack() as undo:
        beneath = _lend_in_shares(device)
        if beneath is None:
            return None
        undo.callback(unlock, beneath)
        for number in range(shares):
            file = share_file(device, number)
            descriptor = lock(file, EXCLUSIVE)
            if descriptor is not None:
                undo.pop_all()
                return DeviceLock(file, descriptor, (device, beneath))
    return None


def share_file(device: Path, number: int) -> Path:
    return device.with_name(f"{device.stem}.share-{number}.json")


def share_files(device: Path) -> list[Path]:
    """Those that were ever taken, also by an instance that lends more shares."""
    return sorted(device.parent.glob(f"{device.stem}.share-*.json"))


def _lend_in_shares(device: Path) -> int | None:
    """A shared lock on the file of a device that is lent in shares, or now will be."""
    with ExitStack() as undo:
        descriptor = lock(device, EXCLUSIVE)
        if descriptor is not None:
            undo.callback(unlock, descriptor)
            write_json(descriptor, {"token": IN_SHARES})
            share(descriptor)
            undo.pop_all()
            return descriptor
        descriptor = lock(device, SHARED)
        if descriptor is not None:
            undo.callback(unlock, descriptor)
            if read_json(descriptor).get("token") == IN_SHARES:
                undo.pop_all()
                return descriptor
    return None
