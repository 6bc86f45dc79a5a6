"""The waiting line for devices: one ticket file per waiter, locked as long as the waiter lives.

File names sort in the order of service: `ticket-<order>-<sequence>.json`. A point of priority goes ahead of
OVERTAKES earlier arrivals and not of all, so nobody waits for ever; the order needs no clock.
Who waits for the quota of their tenant holds up no other tenant, only the asks of their own behind them: or
small ones would always fit beneath the quota, and a large one never.
Everything here runs under the allocator's lock, but for `Ticket.leave`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ft_dagster.launch.locks import EXCLUSIVE, is_at, lock, read_json, unlock, write_json

OVERTAKES = 1000
_NAME = re.compile(r"ticket-\d{12}-\d{12}\.json")
_MIDDLE = 10**11  # keeps the order of a high priority positive, so that names sort as numbers do


@dataclass(frozen=True)
class Ticket:
    """A place in the line, and after the grant the sign that the holder of `token` lives."""

    path: Path
    descriptor: int

    def stands(self) -> bool:
        """False where someone emptied the lock folder."""
        return is_at(self.descriptor, self.path)

    def leave(self) -> None:
        try:
            if self.stands():
                self.path.unlink(missing_ok=True)
        finally:
            unlock(self.descriptor)


@dataclass(frozen=True)
class Waiter:
    """Someone in the line; `ticket` is the content of the file, `wants` the lock names that would do.

    `quota`: devices that its tenant may hold at once; None: any number.
    """

    ticket: dict[str, object]
    wants: frozenset[str] | None
    tenant: str = ""
    count: int = 0
    quota: int | None = None
    shared: bool = False

    def would_take(self, name: str) -> bool:
        return self.wants is None or name in self.wants


def join(folder: Path, allocator: int, priority: int, content: dict[str, object]) -> Ticket:
    """Stand in line. `allocator`: the descriptor of the allocator's file, which counts the arrivals."""
    last = read_json(allocator).get("sequence")
    standing = [int(path.name[-17:-5]) for path in tickets(folder)]
    sequence = max([last if isinstance(last, int) else 0, *standing]) + 1
    write_json(allocator, {"sequence": sequence})
    order = _MIDDLE + sequence - OVERTAKES * priority
    path = folder / f"ticket-{order:012d}-{sequence:012d}.json"
    descriptor = lock(path, EXCLUSIVE)
    if descriptor is None:
        raise BlockingIOError(f"{path} is locked by someone else")
    ticket = Ticket(path, descriptor)
    try:
        write_json(descriptor, content)
    except BaseException:
        ticket.leave()
        raise
    return ticket


def tickets(folder: Path) -> list[Path]:
    """All tickets, the next to be served first."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def waiters(folder: Path, before: Path | None = None) -> Iterator[Waiter]:
    """Who stands in line (`before`: ahead of that ticket), in order. Tickets of the dead are removed."""
    for path in tickets(folder):
        if before is not None and path.name >= before.name:
            return
        content = read_living(path)
        if content is not None:
            yield _waiter(content)


def _waiter(content: dict[str, object]) -> Waiter:
    wants, count, quota = (content.get(name) for name in ("wants", "count", "quota"))
    return Waiter(
        content,
        frozenset(wants) if isinstance(wants, list) else None,
        str(content.get("tenant", "?")),
        count if isinstance(count, int) else 0,
        quota if isinstance(quota, int) else None,
        content.get("shared") is True,
    )


def in_turn(folder: Path, asked: Counter[str], before: Path | None = None) -> Iterator[tuple[Waiter, bool]]:
    """Each waiter in order, and whether its tenant's quota leaves room for it.

    `asked`: the devices that each tenant holds; grows by what its waiters ask for.
    """
    for waiter in waiters(folder, before):
        asked[waiter.tenant] += waiter.count
        yield waiter, within(waiter.quota, asked[waiter.tenant])


def within(quota: int | None, devices: int) -> bool:
    return quota is None or devices <= quota


def read_living(path: Path) -> dict[str, object] | None:
    """The content of a file whose writer lives and holds its lock; else None, and the file is removed."""
    try:
        descriptor = lock(path, EXCLUSIVE, create=False)
    except FileNotFoundError:
        return None
    if descriptor is None:
        return _peek(path)
    path.unlink(missing_ok=True)
    unlock(descriptor)
    return None


def _peek(path: Path) -> dict[str, object] | None:
    try:
        with path.open("rb") as file:
            return read_json(file.fileno())
    except FileNotFoundError:
        return None
