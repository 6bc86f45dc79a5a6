"""Merkle trees as RFC 6962 defines them: sha256 over 0x00 ‖ leaf and over 0x01 ‖ left ‖ right.

A tree of n leaves splits at the largest power of two below n. Hashed level by level, that is a last node
without a partner handed up as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

SIZE = 32  # bytes of a hash
EMPTY = hashlib.sha256().digest()  # the root of no leaves
_LEAF, _NODE = b"\x00", b"\x01"


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(_LEAF + data).digest()


class MerkleTree:
    """The tree over leaves that were hashed already (`leaf_hash`), 32 bytes each, one after another.

    Holds all levels: some 64 bytes a leaf.
    """

    def __init__(self, leaves: bytes) -> None:
        if len(leaves) % SIZE:
            raise ValueError("hashes of 32 bytes each are wanted")
        self._levels = [leaves]
        while len(self._levels[-1]) > SIZE:
            self._levels.append(_above(self._levels[-1]))

    def __len__(self) -> int:
        return len(self._levels[0]) // SIZE

    @property
    def root(self) -> bytes:
        return self._levels[-1] or EMPTY

    def leaf(self, index: int) -> bytes:
        """The hash of a leaf."""
        return _at(self._levels[0], index)

    def path(self, index: int) -> list[bytes]:
        """The siblings from a leaf up to the root, by which `root_of` finds the root again."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        siblings = []
        for level in self._levels[:-1]:
            other = index ^ 1
            if other * SIZE < len(level):
                siblings.append(_at(level, other))
            index //= 2
        return siblings


def root_of(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root of a tree of `size` leaves that has this leaf (its hash) at `index`, by its siblings.

    None where no such tree has a path of this length.
    """
    if not 0 <= index < size:
        return None
    siblings, found, last = iter(path), leaf, size - 1
    while last:
        if index % 2 or index < last:
            other = next(siblings, None)
            if other is None:
                return None
            found = _node(other, found) if index % 2 else _node(found, other)
        index, last = index // 2, last // 2
    return found if next(siblings, None) is None else None


def _above(level: bytes) -> bytes:
    """The level above one of two nodes or more."""
    pairs = len(level) // (2 * SIZE) * 2 * SIZE
    sha256 = hashlib.sha256
    above = [sha256(_NODE + level[at : at + 2 * SIZE]).digest() for at in range(0, pairs, 2 * SIZE)]
    return b"".join(above) + level[pairs:]


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


def _at(level: bytes, index: int) -> bytes:
    return level[index * SIZE : (index + 1) * SIZE]
