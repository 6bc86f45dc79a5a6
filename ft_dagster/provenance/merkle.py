"""Builds Merkle trees as RFC 6962 defines them: sha256 over 0x00 ‖ leaf and over 0x01 ‖ left ‖ right.

A tree of n leaves splits at the largest power of two below n. Hashed level by level, that is a last node
without a partner handed up as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

SIZE = 32  # bytes of a hash
DEPTH = 6  # levels above the leaves of which none are kept
BLOCK = 2**DEPTH  # leaves under a node that is kept
EMPTY = hashlib.sha256().digest()  # the root of no leaves
_LEAF, _NODE = b"\x00", b"\x01"


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(_LEAF + data).digest()


class MerkleTree:
    """Is the tree over leaves that were hashed already (`leaf_hash`), 32 bytes each, one after another.

    Holds the leaves and the nodes from DEPTH levels above them on, some 33 bytes a leaf; what is between is
    hashed again where it is asked for.
    """

    def __init__(self, leaves: bytes) -> None:
        if len(leaves) % SIZE:
            raise ValueError("hashes of 32 bytes each are wanted")
        self._leaves = leaves
        levels = _levels(leaves)
        self._above = levels[DEPTH:]
        self.root = levels[-1] or EMPTY

    def __len__(self) -> int:
        return len(self._leaves) // SIZE

    def leaf(self, index: int) -> bytes:
        """Return the hash of a leaf."""
        return _at(self._leaves, index)

    def path(self, index: int) -> list[bytes]:
        """Return the siblings from a leaf up to the root, by which `root_of` finds the root again."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        block, within = divmod(index, BLOCK)
        around = self._leaves[block * BLOCK * SIZE : (block + 1) * BLOCK * SIZE]
        return [*_siblings(_levels(around), within), *_siblings(self._above, block)]


def root_of(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root of a tree of `size` leaves that has this leaf (its hash) at `index`, by its siblings.

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


def _levels(leaves: bytes) -> list[bytes]:
    """Return the leaves, and each level above them up to the root."""
    levels = [leaves]
    while len(levels[-1]) > SIZE:
        levels.append(_above(levels[-1]))
    return levels


def _siblings(levels: Sequence[bytes], index: int) -> Iterator[bytes]:
    """Yield the neighbour of a node of the lowest level, and of each node above it, where there is one."""
    for level in levels[:-1]:
        if (index ^ 1) * SIZE < len(level):
            yield _at(level, index ^ 1)
        index //= 2


def _above(level: bytes) -> bytes:
    """Hash the level above one of two nodes or more."""
    pairs = len(level) // (2 * SIZE) * 2 * SIZE
    sha256 = hashlib.sha256
    above = [sha256(_NODE + level[at : at + 2 * SIZE]).digest() for at in range(0, pairs, 2 * SIZE)]
    return b"".join(above) + level[pairs:]


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


def _at(level: bytes, index: int) -> bytes:
    return level[index * SIZE : (index + 1) * SIZE]
