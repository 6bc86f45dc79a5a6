"""The index by itself: what it was told it answers, whatever the records are."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from ft_dagster.audit.index import Hit, Index, as_members, digest_of, short
from ft_dagster.audit.members import STATES

FIRSTS = (0, 9, 255)  # bytes that lookups begin with, so that many begin alike
Record = tuple[bytes, int, int]  # lookup, number, state


def drawn(draw: random.Random) -> Record:
    lookup = bytes([draw.choice(FIRSTS), *bytes(6), draw.randrange(4), *bytes(24)])
    return lookup, draw.choice([0, 1, 2**32 - 1]), draw.randrange(9)


@pytest.mark.parametrize("seed", range(20))
def test_every_record_is_found_in_each_artifact_of_its_owner_and_in_no_other(
    tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    held = [(draw.randint(1, 3), at, [drawn(draw) for _ in range(draw.randrange(12))]) for at in range(8)]
    index = Index.open(tmp_path, "a store")
    with index.transaction():
        for owner, artifact, records in held:
            columns = [*zip(*records, strict=True)] or [(), (), ()]
            members = as_members([short(lookup) for lookup in columns[0]], columns[1], columns[2])
            index.add_members(owner, artifact, members)
            assert index.digests().get(artifact) == (digest_of(owner, artifact, members) if records else None)
    for owner in range(1, 4):
        for asked in {lookup for *_, records in held for lookup, _, _ in records}:
            assert sorted(index.hits(owner, asked)) == sorted(
                Hit(artifact, state, number)
                for whose, artifact, records in held
                for lookup, number, state in records
                if (whose, lookup) == (owner, asked)
            )
    index.close()


def test_a_record_in_no_state_and_an_artifact_that_is_not_there_are_damage(tmp_path: Path) -> None:
    index, lookup = Index.open(tmp_path, "a store"), bytes(32)
    with index.transaction():
        index.add_members(1, 1, as_members([short(lookup)], [0], [len(STATES)]))
    with pytest.raises(sqlite3.DatabaseError, match="in no state"):
        index.hits(1, lookup)
    with pytest.raises(sqlite3.DatabaseError, match="artifact 1, which it has not"):
        index.artifact(1)
    index.close()
