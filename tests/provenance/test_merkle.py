"""Trees are those of RFC 6962: by its definition, and by the known roots of its test vectors."""

from __future__ import annotations

import hashlib

import pytest

from ft_dagster.provenance.merkle import EMPTY, MerkleTree, leaf_hash, root_of

VECTORS = [b"", b"\x00", b"\x10", b" !", b"01", b"@ABC", b"PQRSTUVW", b"`abcdefghijklmno"]
ROOTS = {  # of the first n vectors, as certificate transparency's own tests have them
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def defined(leaves: list[bytes]) -> bytes:
    """The tree hash as section 2.1 of the RFC writes it."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + defined(leaves[:split]) + defined(leaves[split:])).digest()


def tree(leaves: list[bytes]) -> MerkleTree:
    return MerkleTree(b"".join(map(leaf_hash, leaves)))


@pytest.mark.parametrize("size", ROOTS)
def test_the_roots_are_the_published_ones(size: int) -> None:
    assert tree(VECTORS[:size]).root.hex() == ROOTS[size]


@pytest.mark.parametrize("size", [*range(35), 63, 64, 65, 127, 128, 129, 200])
def test_every_leaf_of_every_size_has_a_path_to_the_root_of_the_definition(size: int) -> None:
    leaves = [bytes([number]) * 3 for number in range(size)]
    made = tree(leaves)
    assert made.root == defined(leaves)
    for index, leaf in enumerate(leaves):
        path = made.path(index)
        assert root_of(leaf_hash(leaf), index, size, path) == made.root
        assert root_of(leaf_hash(b"another"), index, size, path) != made.root
        assert root_of(leaf_hash(leaf), index, size, path[:-1]) in (None, *([made.root] if size == 1 else []))
        assert root_of(leaf_hash(leaf), index, size, [*path, bytes(32)]) is None
        if size > 1:
            assert root_of(leaf_hash(leaf), index ^ 1 if index ^ 1 < size else 0, size, path) != made.root


def test_no_leaves_have_the_hash_of_nothing() -> None:
    assert MerkleTree(b"").root == EMPTY
    assert root_of(leaf_hash(b""), 0, 0, []) is None


def test_half_a_hash_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        MerkleTree(b"half")
    with pytest.raises(IndexError):
        tree(VECTORS).path(8)
