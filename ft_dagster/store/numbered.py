"""Numbers files in a folder of the store: `000001.json`, `000002.json`, ..., of which the highest counts.

Each is created exclusively, so that of any number of writers one has a number; the highest is never removed.
"""

from __future__ import annotations

from collections.abc import Iterable

from ft_dagster.store.blobs import Store


def numbered(folder: str, number: int) -> str:
    return f"{folder}/{number:06d}.json"


def numbers(store: Store, folder: str) -> list[int]:
    """Return the numbers of the files in a folder, the highest last; none where it does not exist."""
    return sorted(_numbers(name.removesuffix(".json") for name in store.names(folder)))


def highest_number(store: Store, folder: str) -> int:
    """Return the highest number; 0 where there is no file."""
    return max(numbers(store, folder), default=0)


def _numbers(names: Iterable[str]) -> Iterable[int]:
    return (int(name) for name in names if name.isascii() and name.isdigit())
