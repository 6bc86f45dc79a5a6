"""A node's own disk: what was killed goes, what is used stays, and copies are those that were meant."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.launch.remote.folders import bring, make_room, own_folder
from ft_dagster.launch.remote.order import StoredInput
from ft_dagster.store.blobs import Store


def stored(store: Store, name: str, content: bytes) -> StoredInput:
    store.write(f"files/{name}", content)
    return StoredInput(name, f"files/{name}", hashlib.sha256(content).hexdigest())


def test_a_folder_of_a_killed_process_goes_and_one_in_use_stays(tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "weights").write_text("much")
    (tmp_path / "killed.lock").touch()
    with own_folder(tmp_path, "used") as used, own_folder(tmp_path, "other"):
        assert used.is_dir()
        assert not (tmp_path / "killed").exists()
    assert list(tmp_path.iterdir()) == []


def test_inputs_are_links_to_one_copy(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    inputs = [
        stored(store, "a/one", b"same"),
        stored(store, "two", b"same"),
        stored(store, "three", b"other"),
    ]
    for number in range(2):
        bring(store, inputs, tmp_path / "cache", tmp_path / f"run-{number}", None)
    copies = {file.name: file.stat().st_nlink for file in (tmp_path / "cache").iterdir() if file.is_file()}
    assert sorted(copies.values()) == [3, 5]
    assert (tmp_path / "run-1" / "a" / "one").read_bytes() == b"same"


def test_a_damaged_copy_goes_so_that_the_next_try_sends_it_again(tmp_path: Path) -> None:
    store, content = Store(str(tmp_path / "store")), b"as it was"
    name = hashlib.sha256(content).hexdigest()
    copy, whole = stored(store, name, content), stored(store, "whole", b"whole")
    store.write(copy.stored, b"another")
    with pytest.raises(FileNotFoundError, match="had other bytes"):
        bring(store, [copy, whole], tmp_path / "cache", tmp_path / "run", None)
    assert store.names("files") == ["whole"]
    stored(store, name, content)
    bring(store, [copy, whole], tmp_path / "cache", tmp_path / "run", None)
    assert (tmp_path / "run" / name).read_bytes() == content


def test_an_input_of_other_bytes_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    wanted = stored(store, "one", b"as it was")
    store.write(wanted.stored, b"another")
    with pytest.raises(UserError, match="has other bytes"):
        bring(store, [wanted], tmp_path / "cache", tmp_path / "run", None)
    assert [file for file in (tmp_path / "cache").iterdir() if file.is_file()] == []


def test_the_oldest_copies_go_and_none_that_is_linked(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old", "oldest", "linked")):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1_000 - age, 1_000 - age))
    os.link(tmp_path / "linked", tmp_path.parent / f"{tmp_path.name}-link")
    make_room(tmp_path, 20)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["linked", "new"]


def test_a_limit_makes_room_before_inputs_are_fetched(tmp_path: Path) -> None:
    store, cache = Store(str(tmp_path / "store")), tmp_path / "cache"
    bring(store, [stored(store, "before", bytes(60))], cache, tmp_path / "first", None)
    (tmp_path / "first" / "before").unlink()
    bring(store, [stored(store, "now", bytes(61))], cache, tmp_path / "second", 100)
    assert [file.stat().st_size for file in cache.iterdir() if file.is_file()] == [61]
