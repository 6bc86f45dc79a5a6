"""The cache of a remote store: within its limit, and never without what somebody uses."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.store import Artifact, Attempt, Store, artifacts, cache, exclusive, transfer
from ft_dagster.store.make import Recipe, make_artifact
from ft_dagster.store.transfer import Transfer
from tests.s3_server import S3Server

SIZE = 1000


@pytest.fixture
def remote(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Whose cache takes two and a half artifacts of these tests."""
    monkeypatch.setattr(exclusive, "SETTLE_SECONDS", 0.0)
    url = f"s3://{s3_server.bucket}/{tmp_path.name}"
    yield Store(url, s3_server.options, tmp_path / "locks", cache_bytes=2.5 * SIZE)
    forget()


def forget() -> None:
    """As if the process that used copies had ended."""
    for file in cache._HELD.values():
        file.close()
    cache._HELD.clear()


def made(store: Store, tmp_path: Path, number: int) -> Artifact:
    def build(attempt: Attempt) -> dict[str, int]:
        (attempt.payload / "x").write_bytes(bytes([number]) * SIZE)
        return {}

    return make_artifact(store, tmp_path, Recipe("task_dataset", "shared", spec={"n": number}), build)


def cached(folder: Path) -> set[str]:
    """The digests of what is in the cache."""
    return {each.parent.parent.parent.name for each in folder.glob("*/*/payload/x")}


def test_the_longest_unused_goes(remote: Store, tmp_path: Path) -> None:
    of = [made(remote, tmp_path, number) for number in range(4)]
    for number in (0, 1, 0, 2):
        of[number].folder(remote, tmp_path / "cache")
        forget()
        time.sleep(0.02)
    assert cached(tmp_path / "cache") == {of[0].digest, of[2].digest}
    of[3].folder(remote, tmp_path / "cache")
    assert cached(tmp_path / "cache") == {of[2].digest, of[3].digest}


def test_what_this_process_uses_stays_however_full_it_is(remote: Store, tmp_path: Path) -> None:
    of = [made(remote, tmp_path, number) for number in range(4)]
    folders = [one.folder(remote, tmp_path / "cache") for one in of]
    assert all((folder / "payload" / "x").stat().st_size == SIZE for folder in folders)


@pytest.mark.slow
def test_what_another_process_uses_stays_until_it_is_killed(remote: Store, tmp_path: Path) -> None:
    of = [made(remote, tmp_path, number) for number in range(4)]
    folder = of[0].folder(remote, tmp_path / "cache")
    forget()
    program = (
        "import sys, time; from pathlib import Path; from ft_dagster.store.cache import hold;"
        "hold(Path(sys.argv[1]), sys.argv[2], sys.argv[3]); print('held', flush=True); time.sleep(60)"
    )
    words = [str(tmp_path / "cache"), of[0].digest, folder.name]
    with subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        for one in of[1:]:
            one.folder(remote, tmp_path / "cache")
            forget()
        assert cached(tmp_path / "cache") == {of[0].digest, of[3].digest}
        other.kill()
    of[1].folder(remote, tmp_path / "cache")
    assert of[0].digest not in cached(tmp_path / "cache")


def test_what_is_held_stays_as_long_as_that_lasts(remote: Store, tmp_path: Path) -> None:
    here, one = tmp_path / "cache", made(remote, tmp_path, 1)
    with one.held(remote, here) as folder:
        with one.held(remote, here):
            pass
        cache.make_room(here, 0, 0)
        assert (folder / "payload" / "x").read_bytes() == b"\1" * SIZE
    cache.make_room(here, 0, 0)
    assert cached(here) == set()


def test_what_is_held_for_good_is_not_let_go_by_who_holds_it_for_a_while(
    remote: Store, tmp_path: Path
) -> None:
    here, one = tmp_path / "cache", made(remote, tmp_path, 1)
    one.folder(remote, here)
    with one.held(remote, here):
        pass
    cache.make_room(here, 0, 0)
    assert cached(here) == {one.digest}


def test_a_file_is_read_without_a_copy_and_held_against_its_manifest(remote: Store, tmp_path: Path) -> None:
    one = made(remote, tmp_path, 1)
    assert one.read(remote, "payload/x") == b"\1" * SIZE
    assert not (tmp_path / "cache").exists()
    remote.write(f"{one.path}/payload/x", b"\2" * SIZE)
    with pytest.raises(UserError, match="a stored file has other bytes"):
        one.read(remote, "payload/x")
    remote.remove([f"{one.path}/payload/x"])
    with pytest.raises(UserError, match="a stored file is missing"):
        one.read(remote, "payload/x")


def test_what_went_is_fetched_again(remote: Store, tmp_path: Path) -> None:
    one = made(remote, tmp_path, 1)
    one.folder(remote, tmp_path / "cache")
    forget()
    cache.make_room(tmp_path / "cache", 0, 0)
    assert cached(tmp_path / "cache") == set()
    assert (one.folder(remote, tmp_path / "cache") / "payload" / "x").read_bytes() == b"\1" * SIZE


def test_without_a_limit_nothing_goes(remote: Store, tmp_path: Path) -> None:
    remote.cache_bytes = None
    for number in range(4):
        made(remote, tmp_path, number).folder(remote, tmp_path / "cache")
        forget()
    assert len(cached(tmp_path / "cache")) == 4


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_takes_what_nobody_uses_and_then_is_said(
    remote: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    remote.cache_bytes = None
    unused, wanted = made(remote, tmp_path, 1), made(remote, tmp_path, 2)
    unused.folder(remote, tmp_path / "cache")
    forget()
    fetch_all = transfer.fetch_all

    def fill(store: Store, files: list[Transfer], drafts: Path) -> None:
        if files and (cached(tmp_path / "cache") or full):
            raise OSError(number, os.strerror(number))
        fetch_all(store, files, drafts)

    monkeypatch.setattr(artifacts, "fetch_all", fill)
    full = True
    with pytest.raises(UserError, match="the disk of the cache is full of what is in use"):
        wanted.folder(remote, tmp_path / "cache")
    full = False
    monkeypatch.undo()
    unused.folder(remote, tmp_path / "cache")
    forget()
    monkeypatch.setattr(artifacts, "fetch_all", fill)
    wanted.folder(remote, tmp_path / "cache")
    assert cached(tmp_path / "cache") == {wanted.digest}


def test_what_killed_downloads_left_goes_after_a_day(remote: Store, tmp_path: Path) -> None:
    drafts = tmp_path / "cache" / "downloads"
    drafts.mkdir(parents=True)
    for name, age in (("young", 3600), ("old", 2 * 86_400)):
        (drafts / name).write_bytes(b"half")
        os.utime(drafts / name, (time.time() - age,) * 2)
    made(remote, tmp_path, 1).folder(remote, tmp_path / "cache")
    assert [draft.name for draft in drafts.iterdir()] == ["young"]
