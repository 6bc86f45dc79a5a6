"""All that was ever committed under many keys, as a host that reads each manifest once knows it."""

from __future__ import annotations

import sqlite3
import time
import zlib
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.store import Artifact, Place, Store, exclusive, recall
from ft_dagster.store.committed import all_committed
from ft_dagster.store.make import Recipe, make_artifact
from ft_dagster.store.removal import claim_removal, finish_removal
from tests.s3_server import S3Server

PREFIX = "tenants/acme/support"


@pytest.fixture
def remote(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """One that remembers."""
    monkeypatch.setattr(exclusive, "SETTLE_SECONDS", 0.0)
    url = f"s3://{s3_server.bucket}/{tmp_path.name}"
    return Store(url, s3_server.options, tmp_path / "locks", None, tmp_path / "cache")


def made(store: Store, tmp_path: Path, name: str) -> Artifact:
    return make_artifact(store, tmp_path / "work", Recipe("probe", PREFIX, {"x": name}), lambda _: {})


def removed(store: Store, artifact: Artifact) -> None:
    assert claim_removal(store, artifact, "a test", time.time() + 60)
    finish_removal(store, artifact, artifact.files)


def known(store: Store, *places: Place, anew: tuple[Place, ...] = ()) -> list[tuple[str, int]]:
    found = [one for one in all_committed(store, places, anew) if isinstance(one, Artifact)]
    return [(one.predicate["attempt"], one.generation) for one in found]


@pytest.mark.slow
def test_what_was_removed_is_known_and_what_was_made_again_where_it_is_asked_for(
    remote: Store, tmp_path: Path
) -> None:
    first, other = made(remote, tmp_path, "a"), made(remote, tmp_path, "b")
    both = [(str(one.predicate["attempt"]), 1) for one in (first, other)]
    assert known(remote, first.place, other.place) == both
    removed(remote, first)
    again = made(remote, tmp_path, "a")
    assert again.generation == 2
    assert known(remote, first.place, other.place) == both
    all_three = [*both, (str(again.predicate["attempt"]), 2)]
    assert known(remote, first.place, other.place, anew=(first.place,)) == all_three
    assert known(remote, first.place, other.place) == all_three  # it learned


@pytest.mark.slow
def test_what_cannot_be_read_is_said_and_not_remembered(remote: Store, tmp_path: Path) -> None:
    artifact = made(remote, tmp_path, "a")
    content = remote.read(artifact.manifest_path)
    remote.write(artifact.manifest_path, b"{")
    (error,) = all_committed(remote, [artifact.place, Place(PREFIX, "probe", "f" * 64)])
    assert isinstance(error, UserError)
    remote.write(artifact.manifest_path, content)
    assert known(remote, artifact.place) == [(artifact.predicate["attempt"], 1)]


@pytest.mark.slow
def test_a_memory_that_does_not_hold_is_not_said_of_the_store(remote: Store, tmp_path: Path) -> None:
    artifact = made(remote, tmp_path, "a")
    as_it_is = known(remote, artifact.place)
    file = tmp_path / "cache" / recall.FILE
    with sqlite3.connect(file) as db:
        db.execute("UPDATE files SET content = ?", (zlib.compress(b"{}"),))
    assert known(remote, artifact.place) == as_it_is
    assert recall.recall(file.parent, remote.url, [artifact.manifest_path]) == {
        artifact.manifest_path: remote.read(artifact.manifest_path)  # it learned
    }


@pytest.mark.slow
def test_a_folder_is_read_as_it_stands(store: Store, tmp_path: Path) -> None:
    artifact = made(store, tmp_path, "a")
    assert known(store, artifact.place) == [(artifact.predicate["attempt"], 1)]
    removed(store, artifact)
    again = made(store, tmp_path, "a")
    assert known(store, artifact.place)[-1] == (again.predicate["attempt"], 2)
