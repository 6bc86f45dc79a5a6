"""What the kernel shows of a process as its command and its environment, written over by a fork.

A fork keeps its parent's; but those bytes are its own memory. The server is started with an argument and a
variable that do nothing but keep room, into which a fork writes its command and its environment: then
`/proc/PID/environ` has its FT_DAGSTER_RUN, and so have the processes that it forks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "FT_DAGSTER_ROOM"
ARGUMENT_BYTES, ENVIRONMENT_BYTES = 8 * 1024, 96 * 1024  # the kernel takes 128 KiB a string


def argument() -> str:
    return "-" * ARGUMENT_BYTES


def variable() -> dict[str, str]:
    return {VARIABLE: "-" * ENVIRONMENT_BYTES}


@dataclass(frozen=True)
class Room:
    """Addresses in this process' memory: of all its arguments, and of the variable that keeps room."""

    arguments: tuple[int, int]
    environment: tuple[int, int]

    def write(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Show these. What does not fit is cut off at the end, so what must be found comes first."""
        shown = b"\0".join(part.encode("utf-8", "surrogateescape") for part in command)
        _write(self.arguments, shown, filler=b"\0")
        start, end = self.environment
        entries = [
            f"{name}={value}".encode("utf-8", "surrogateescape") for name, value in environment.items()
        ]
        left, fitting = end - start - len(VARIABLE) - 2, []
        for entry in entries:
            if len(entry) < left:
                fitting.append(entry)
                left -= len(entry) + 1
        # No reader may meet an empty entry, which to some ends the environment.
        _write(self.environment, b"\0".join([*fitting, f"{VARIABLE}=".encode()]), filler=b"-")


def find_room() -> Room | None:
    """Of this process, where it was started with it."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    arguments, variables = _area(fields, 45), _area(fields, 47)  # arg_start is the 48th field, state the 3rd
    if 0 in (*arguments, *variables):
        return None  # kept from us
    content = ctypes.string_at(variables[0], variables[1] - variables[0])
    entry = f"{VARIABLE}={'-' * ENVIRONMENT_BYTES}".encode()
    at = content.find(entry)
    if at < 0 or arguments[1] - arguments[0] < ARGUMENT_BYTES:
        return None
    return Room(arguments, (variables[0] + at, variables[0] + at + len(entry)))


def _area(fields: list[str], first: int) -> tuple[int, int]:
    return int(fields[first]), int(fields[first + 1])


def _write(area: tuple[int, int], content: bytes, filler: bytes) -> None:
    """Into the area but its last byte, which stays NUL in either."""
    size = area[1] - area[0] - (1 if filler == b"\0" else 0)
    ctypes.memmove(area[0], content[:size].ljust(size, filler), size)
