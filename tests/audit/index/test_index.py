"""The index by itself: what it was told it answers, whatever the records are."""

from __future__ import annotations

import random
import sqlite3
from functools import partial
from pathlib import Path

import pytest

from ft_dagster.audit.index.artifact_records import STATES
from ft_dagster.audit.index.index import Hit, Index, as_members, digest_of, short
from ft_dagster.store import Artifact, Place

DIGEST = "d" * 64
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


def shared_by(folder: Path, variants: int) -> Index:
    """An index of so many variants, each with an artifact of one digest, and one that was made of it."""
    index = Index.open(folder, "a store")
    with index.transaction():
        owner = index.owner("acme", "a key")
        for number in range(variants):
            made = {"digest": DIGEST, "inputs": {}, "created": "2026-11-26T00:00:00+00:00"}
            prefix = f"tenants/acme/v{number}"
            above = Artifact(Place(prefix, "before", "a"), made, manifest=f"above {number}")
            of = {"inputs": {"before": DIGEST}, "input_manifests": {"before": above.manifest}}
            child = {**made, **of, "digest": f"{number}"}
            below = Artifact(Place(prefix, "after", "b"), child, manifest=f"below {number}")
            index.add_artifact(above, owner)
            index.add_artifact(below, owner)
    return index


def test_of_many_that_share_a_digest_only_those_that_are_asked_for_are_read(tmp_path: Path) -> None:
    steps = []
    for variants in (10, 400):
        index = shared_by(tmp_path / str(variants), variants)
        above, below = index.of_stage("before")[3], index.of_stage("after")[3]
        count = [0]
        index._db.set_progress_handler(partial(one_more, count), 1)
        assert index.made_of(above) == [below]
        assert index.parent(below, "before") == above
        assert index.with_digest(DIGEST, above.manifest) == [above]
        index._db.set_progress_handler(None, 0)
        steps.append(count[0])
        index.close()
    assert steps[1] < 1.5 * steps[0]


def one_more(count: list[int]) -> int:
    """Of the steps of SQLite; 0: to go on."""
    count[0] += 1
    return 0


def test_a_record_in_no_state_and_an_artifact_that_is_not_there_are_damage(tmp_path: Path) -> None:
    index, lookup = Index.open(tmp_path, "a store"), bytes(32)
    with index.transaction():
        index.add_members(1, 1, as_members([short(lookup)], [0], [len(STATES)]))
    with pytest.raises(sqlite3.DatabaseError, match="in no state"):
        index.hits(1, lookup)
    with pytest.raises(sqlite3.DatabaseError, match="artifact 1, which it has not"):
        index.artifact(1)
    index.close()
