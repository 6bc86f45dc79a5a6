"""Whichever limit is nearest: of the host, of a container, of a group above."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from ft_dagster.host_memory import GroupMemory, free_memory, group_memories


def limited(folder: Path, limit: str, taken: int, idle: int = 0) -> None:
    """A group of version 2."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{taken}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {idle}\nactive_file 7\n")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """What says the group of this process: of version 2."""
    file = tmp_path / "own"
    file.write_text("0::/system.slice/trains.service\n")
    return file


def test_without_a_limit_it_is_the_hosts(tmp_path: Path, own: Path) -> None:
    limited(tmp_path / "groups/system.slice/trains.service", "max", 1)
    for mine in (own, tmp_path / "none"):
        assert free_memory(tmp_path / "groups", mine) == pytest.approx(
            psutil.virtual_memory().available, rel=0.5
        )


def test_what_a_group_gives_back_when_asked_is_free(tmp_path: Path, own: Path) -> None:
    limited(tmp_path / "system.slice/trains.service", "1000000", 700_000, idle=150_000)
    assert free_memory(tmp_path, own) == 450_000
    limited(tmp_path / "system.slice/trains.service", "1000000", 1_200_000)
    assert free_memory(tmp_path, own) == 0


def test_the_nearest_limit_of_all_groups_above_holds(tmp_path: Path, own: Path) -> None:
    limited(tmp_path / "system.slice/trains.service", "900", 100)
    limited(tmp_path / "system.slice", "1000", 700)
    assert free_memory(tmp_path, own) == 300
    assert list(group_memories(tmp_path, own)) == [GroupMemory(900, 100), GroupMemory(1000, 700)]


@pytest.mark.parametrize("path", ["/", "/docker/0123", "/../outside"])
def test_a_container_sees_its_limit_at_the_top(path: str, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text(f"0::{path}\n")
    limited(tmp_path / "groups", "1000", 400)
    assert free_memory(tmp_path / "groups", own) == 600


def test_version_1_has_a_controller_for_memory(tmp_path: Path) -> None:
    own, group = tmp_path / "own", tmp_path / "memory/docker/0123"
    own.write_text("12:cpu,cpuacct:/docker/0123\n9:memory:/docker/0123\n0::/\n")
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("1000\n")
    (group / "memory.usage_in_bytes").write_text("800\n")
    (group / "memory.stat").write_text("inactive_file 0\ntotal_inactive_file 50\n")
    assert free_memory(tmp_path, own) == 250
