"""Measures how much memory this host's programs, or those of its container, may still take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

GROUP_FILES = {  # of version 2 and version 1: the limit, what is taken, what of it is given back
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


class GroupMemory(NamedTuple):
    """Holds the bytes that a control group may hold, and that it holds, less what it gives back when
    asked.
    """

    limit: int
    taken: int


def group_memories(
    groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> Iterator[GroupMemory]:
    """Yield the control groups with a limit that this program is in, version 1 or 2: its own, and those
    above.

    In a container `groups` begins at the container's, and `own` may name a path that is not there.
    """
    for line in own.read_text("utf-8").splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        kind = "memory" if "memory" in controllers.split(",") else ""
        if controllers and not kind:
            continue
        most, taken, idle = GROUP_FILES[kind]
        top = groups / kind
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = top.joinpath(*parts[:depth])
            limit = (folder / most).read_text("utf-8").strip() if (folder / most).exists() else "max"
            if limit != "max":
                lines = (folder / "memory.stat").read_text("utf-8").splitlines()
                given_back = int(dict(line.split() for line in lines)[idle])
                held = int((folder / taken).read_text("utf-8")) - given_back
                yield GroupMemory(int(limit), held)


def free_memory(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the bytes that this host's programs may still take, or one of its control groups where those are
    fewer.
    """
    import psutil

    free = int(psutil.virtual_memory().available)
    return max(0, min([free, *(each.limit - each.taken for each in group_memories(groups, own))]))
