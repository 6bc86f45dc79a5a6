"""A remembered hash is that of the bytes: nothing that leaves size and modification time alone is missed."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ft_dagster.provenance import hash_cache
from ft_dagster.provenance.hash_cache import FILE, cached_digests, cached_sha256


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of an hour ago, by its modification time, and remembered however young it is."""
    monkeypatch.setattr(hash_cache, "SETTLED_SECONDS", -1.0)
    file = tmp_path / "weights"
    file.write_bytes(b"good")
    os.utime(file, (time.time() - 3600,) * 2)
    assert cached_sha256(file, tmp_path / "cache") == sha256(b"good")
    time.sleep(0.02)  # a step of the kernel's clock
    return file


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are hashed from now on."""
    done: list[Path] = []
    real = hash_cache._written_and_hashed

    def noted(path: Path) -> object:
        done.append(path)
        return real(path)

    monkeypatch.setattr(hash_cache, "_written_and_hashed", noted)
    return done


def copied_over(file: Path, evil: Path) -> None:
    shutil.copyfile(evil, file)
    shutil.copystat(evil, file)  # `cp -p`


def moved_over(file: Path, evil: Path) -> None:
    evil.rename(file)


def written_in_place(file: Path, evil: Path) -> None:
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        mapped[:] = b"evil"
    os.utime(file, ns=(evil.stat().st_atime_ns, evil.stat().st_mtime_ns))


@pytest.mark.parametrize("swap", [copied_over, moved_over, written_in_place])
def test_other_bytes_of_the_same_size_and_time_are_hashed(
    tmp_path: Path, file: Path, swap: Callable[[Path, Path], None]
) -> None:
    evil = tmp_path / "evil"
    evil.write_bytes(b"evil")
    shutil.copystat(file, evil)
    before = file.stat()
    swap(file, evil)
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert cached_sha256(file, tmp_path / "cache") == sha256(b"evil")


def kind_of(folder: Path) -> str:
    """Of file system."""
    mounts = [part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype


def test_a_map_that_was_held_since_before_the_hash_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hash_cache, "SETTLED_SECONDS", -1.0)
    file, cache = tmp_path / "weights", tmp_path / "cache"
    if kind_of(tmp_path) == "tmpfs":
        pytest.skip("no file system in memory notices what is written through a map")
    file.write_bytes(b"....")
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapped:
        mapped[:] = b"good"
        assert cached_sha256(file, cache) == sha256(b"good")
        time.sleep(0.02)
        mapped[:] = b"evil"
        assert cached_sha256(file, cache) == sha256(b"evil")


def test_what_nobody_touched_is_not_hashed_again(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = hashed(monkeypatch)
    renamed = file.rename(tmp_path / "renamed")
    os.utime(renamed)
    cached_sha256(renamed, tmp_path / "cache")
    assert done == [renamed]  # a rename, or new times: hashed once more
    assert cached_digests([renamed, renamed], tmp_path / "cache") == [sha256(b"good")] * 2
    assert done == [renamed]
    cached_sha256(renamed, tmp_path / "cache", fresh=True)
    assert done == [renamed, renamed]


def test_a_file_that_changed_a_moment_ago_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, done = tmp_path / "young", hashed(monkeypatch)
    file.write_bytes(b"good")
    for _ in range(2):
        cached_sha256(file, tmp_path / "cache")
    assert done == [file, file]


def test_a_cache_that_cannot_be_made_costs_time_alone(tmp_path: Path, file: Path) -> None:
    assert cached_sha256(file, file / "cache") == sha256(b"good")


@pytest.mark.parametrize("damage", ["garbage", "readable by all", "a link", "gone"])
def test_a_memory_that_cannot_be_believed_is_begun_anew(tmp_path: Path, file: Path, damage: str) -> None:
    kept = tmp_path / "cache" / FILE
    assert kept.stat().st_mode & 0o777 == 0o600
    if damage == "garbage":
        kept.write_bytes(b"no database" * 1000)
    elif damage == "readable by all":
        kept.chmod(0o666)
    else:
        elsewhere = kept.rename(tmp_path / "elsewhere")
        if damage == "a link":
            kept.symlink_to(elsewhere)
    for _ in range(2):
        assert cached_sha256(file, tmp_path / "cache") == sha256(b"good")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert not kept.is_symlink()
