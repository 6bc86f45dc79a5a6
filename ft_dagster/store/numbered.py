"""Numbers files in a folder of the store: `000001.json`, `000002.json`, ..., of which the highest counts.

Each is created exclusively, so that of any number of writers one has a number; the highest is never removed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Listing(Protocol):
    """Is what lists folders: a store, or what keeps the files of a witness."""

    def names(self, relative: str) -> list[str]:
        """Return the names directly below a folder; none where it does not exist."""
        ...


def numbered(folder: str, number: int) -> str:
    return f"{folder}/{number:06d}.json"


def numbers(store: Listing, folder: str) -> list[int]:
    """Return the numbers of the files in a folder, the highest last; none where it does not exist."""
    return sorted(_numbers(name.removesuffix(".json") for name in store.names(folder)))


def highest_number(store: Listing, folder: str) -> int:
    """Return the highest number; 0 where there is no file."""
    return max(numbers(store, folder), default=0)


def _numbers(names: Iterable[str]) -> Iterable[int]:
    return (int(name) for name in names if name.isascii() and name.isdigit())
