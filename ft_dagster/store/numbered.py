"""Numbers files in a folder of the store: `000001.json`, `000002.json`, ..., of which the highest counts.

Each is created exclusively, so that of any number of writers one has a number; the highest is never removed.
A file by any other name, as `7.json` or one of 19 digits, has no number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

_NAME = re.compile(r"([0-9]{6}|[1-9][0-9]{6,17})\.json", re.ASCII)


class Listing(Protocol):
    """Is what lists folders: a store, or what keeps the files of a witness."""

    def names(self, relative: str) -> list[str]:
        """Return the names directly below a folder; none where it does not exist."""
        ...


def numbered(folder: str, number: int) -> str:
    return f"{folder}/{number:06d}.json"


def numbers(store: Listing, folder: str) -> list[int]:
    """Return the numbers of the files in a folder, the highest last; none where it does not exist."""
    found = map(_NAME.fullmatch, store.names(folder))
    return sorted(number for one in found if one is not None and (number := int(one[1])) > 0)


def highest_number(store: Listing, folder: str) -> int:
    """Return the highest number; 0 where there is no file."""
    return max(numbers(store, folder), default=0)


def to_read(there: Iterable[int], counted: int) -> Iterable[int]:
    """Yield the numbers to read of a log of which a head counts so many entries: these, then what is there
    after them, and the first number of that which is not. So a file by a number far away costs one read.
    """
    yield from range(1, counted + 1)
    after = [number for number in there if number > counted]
    gap = next((at for at, number in enumerate(after, counted + 1) if number != at), None)
    yield from sorted([*after, gap] if gap else after)
