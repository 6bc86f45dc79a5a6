"""Finds the files that a glob names, in a time that no glob makes longer than its length and the names'
allow.

`*`, `?` and `[...]` stand for signs of one part of a path, `**` for any number of whole parts. fsspec holds a
path as a whole against a regular expression that tries every way to share the signs out; so it is asked for
a wider glob, in which there is one way, and what it finds is matched here part by part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate
from typing import Any

ANY = "**"
LONGEST = 4096  # letters, as of a path on Linux; a key of S3 has at most 1024
SIGN = re.compile(r"[*?[]")
NONE = re.compile(r"(?!)")


class NoGlob(ValueError):
    """Signals that a pattern is no glob, and why."""


def globbed(fs: Any, pattern: str) -> dict[str, object]:
    """Return what a file system holds that fits, by its path, with what the listing says of it. Raises
    NoGlob.
    """
    if len(pattern) > LONGEST:
        raise NoGlob(f"a glob of more than {LONGEST:,} letters")
    parts = pattern.rstrip("/").split("/")
    if any(ANY in part and part != ANY for part in parts):
        raise NoGlob("in a glob ** is a whole part of the path, as in data/**/rows.jsonl")
    folders = [""] if pattern.endswith("/") else []  # alone
    found = fs.glob("/".join([*_wider(parts), *folders]), detail=True)
    wanted, as_folder = [*map(_fitting, [*parts, *folders])], bool(folders) or parts[-1] == ANY
    return {path: info for path, info in found.items() if _fits(wanted, _names(path, info, as_folder))}


def _wider(parts: Sequence[str]) -> list[str]:
    """Widen each part to its first sign and anything after it, and the first `**` to all that lies below."""
    plain = parts[: parts.index(ANY)] if ANY in parts else parts
    begun = [part if SIGN.search(part) is None else f"{SIGN.split(part)[0]}*" for part in plain]
    return [*begun, ANY] if ANY in parts else begun


def _fitting(part: str) -> re.Pattern[str] | None:
    """Return the expression of one part; None means any number of parts. An expression of Python's
    `translate` never tries a `*` a second time.
    """
    if part == ANY:
        return None
    return re.compile(r"(?s:.+)\Z" if part == "*" else translate(part))


def _names(path: str, info: Any, as_folder: bool) -> list[str]:
    """Return the parts of a path; of a folder that is seen as one, an empty one at its end."""
    return [*path.split("/"), *([""] if as_folder and info.get("type") == "directory" else [])]


def _fits(wanted: Sequence[re.Pattern[str] | None], names: Sequence[str]) -> bool:
    """Say whether all names fit, in order. A `**` takes no name, at the end one or more; where what follows
    does not fit the last one takes another, and those before it need not.
    """
    at, name, after, taken = 0, 0, -1, 0
    while name < len(names):
        pattern = wanted[at] if at < len(wanted) else NONE
        if pattern is None:
            at, after, taken = at + 1, at + 1, name
            if at == len(wanted):
                return True
        elif pattern.match(names[name]):
            at, name = at + 1, name + 1
        elif after >= 0:
            taken += 1
            at, name = after, taken
        else:
            return False
    return at == len(wanted)
