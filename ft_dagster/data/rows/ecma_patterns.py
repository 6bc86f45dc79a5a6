"""Writes a pattern of ECMA 262, which JSON schema means, as the linear engine of Rust reads it.

The two read the same text differently, and without a word: `\\d`, `\\w` and `\\b` are ASCII in ECMA 262 and
all of Unicode in Rust, `.` ends at four characters and not at one, and within a class `[`, `&&`, `--` and
`~~` are letters and not operators.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_SPACE = r"\t\n\x0B\x0C\r\x{FEFF}\x{2028}\x{2029}\p{Zs}"
_CLASSES = {"d": "0-9", "w": "0-9A-Za-z_", "s": _SPACE}
_CONTROLS = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "0": "\0"}
_DOT, _ALL, _NONE = r"[^\n\r\x{2028}\x{2029}]", r"(?s:.)", r"[^\x{0}-\x{10FFFF}]"
_NUMBER = re.compile(r"\d+")
_NO_END = re.compile(r"-(?:\]|\\[dDwWsSpP])")  # of a range
_COUNT = r"\{\d+(?:,\d*)?\}"
_PIECE = re.compile(
    rf"""(?P<escape>\\(?:u[dD][89abAB][0-9a-fA-F]{{2}}\\u[dD][c-fC-F][0-9a-fA-F]{{2}}|u[0-9a-fA-F]{{4}}
    |u\{{[0-9a-fA-F]+\}}|x[0-9a-fA-F]{{2}}|c[A-Za-z]|[pP]\{{[A-Za-z_=0-9]+\}}|0(?![0-9])|[^ux cpP1-90]|\ ))
    |(?P<quantifier>(?:[*+?]|{_COUNT})\??(?![*+?]|{_COUNT}))
    |(?P<group>\((?:\?(?:P?<(?![=!])[A-Za-z_]\w*>|i?:|i\)))?)
    |(?P<class>\[\^?)
    |(?P<plain>[^\\*+?(\[])""",
    re.VERBOSE | re.DOTALL,
)


class Linear(NamedTuple):
    """Is a pattern as Rust's engine reads it, and how many letters it has when its counts are written out: at
    each letter of a text as many steps are taken at most.
    """

    text: str
    letters: int


def as_rust(pattern: str) -> Linear:
    """Raises ValueError for a pattern that looks around or back, and for what ECMA 262 does not have; `(?i)`
    and `(?P<name>…)`, which writers of Python leave, mean the same.
    """
    written, at, letters = list[str](), 0, _Letters()
    while at < len(pattern):
        found = _PIECE.match(pattern, at)
        if found is None:
            raise ValueError(pattern[at : at + 1])
        kind, said, at = found.lastgroup, found[0], found.end()
        letters.add(kind, said)
        if kind == "class":
            said, at = _class(pattern, at, negated=said == "[^")
        elif kind == "escape":
            said = _escaped(said[1:])
        elif kind == "plain" and said not in ")|^$":
            said = _DOT if said == "." else _letter(said)
        written.append(said)
    return Linear("".join(written), sum(letters.groups))


class _Letters:
    """Counts the letters of each group that is open; the last thing is what a count repeats."""

    def __init__(self) -> None:
        self.groups, self._last = [0], 0

    def add(self, kind: str | None, text: str) -> None:
        if kind == "quantifier":
            times = max(1, *map(int, _NUMBER.findall(text)), 1)
            self.groups[-1] += self._last * (times - 1)
            self._last *= times
            return
        self._last = 1
        if kind == "group":
            self._last = 0
            self.groups += [] if text == "(?i)" else [0]
        elif text == ")" and len(self.groups) > 1:
            self._last = self.groups.pop()
        self.groups[-1] += self._last


def _escaped(said: str) -> str:
    if said == "b":
        return r"(?-u:\b)"
    if said == "B":
        raise ValueError(said)
    inside = _in_class(said)
    return f"[{inside}]" if said[0].lower() in _CLASSES else inside


def _in_class(said: str) -> str:
    """Return what an escape stands for within a class of characters; `said`: without its backslash."""
    first, rest = said[0], said[1:]
    if first in _CLASSES:
        return _CLASSES[first]
    if first.lower() in _CLASSES:
        return f"[^{_CLASSES[first.lower()]}]"
    if first in "pP":
        return f"\\{said}"
    if first == "c":
        return _letter(chr(ord(rest) % 32))
    if first in "ux":
        high, _, low = rest.strip("{}").partition("\\u")
        code = int(high, 16)
        return _letter(chr(0x10000 + (code - 0xD800 << 10) + int(low, 16) - 0xDC00) if low else chr(code))
    if first in _CONTROLS:
        return _letter(_CONTROLS[first])
    if first.isalnum():
        raise ValueError(said)
    return _letter(first)


def _class(pattern: str, at: int, *, negated: bool) -> tuple[str, int]:
    """Return a class of characters from behind its bracket on, and where it ends."""
    parts = list[str]()
    while not pattern.startswith("]", at):
        found = _PIECE.match(pattern, at) if pattern.startswith("\\", at) else None
        if found is not None and found[0] == r"\b":
            parts.append(_letter("\b"))
        elif found is not None:
            parts.append(_in_class(found[0][1:]))
        elif at < len(pattern) and pattern[at] != "\\":
            between = pattern[at] == "-" and _is_range(parts, pattern, at)
            parts.append("-" if between else _letter(pattern[at]))
        else:
            raise ValueError(pattern[at : at + 1])
        at = at + 1 if found is None else found.end()
    if not parts:
        return (_ALL if negated else _NONE), at + 1
    return f"[{'^' * negated}{''.join(parts)}]", at + 1


def _is_range(parts: list[str], pattern: str, at: int) -> bool:
    """Say whether the hyphen there, behind these parts, stands between two letters; what ends a range begins
    none.
    """
    single = bool(parts) and (parts[-1].isalnum() or parts[-1].startswith(r"\x"))
    return single and parts[-2:-1] != ["-"] and not _NO_END.match(pattern, at)


def _letter(letter: str) -> str:
    return letter if letter.isalnum() else f"\\x{{{ord(letter):X}}}"
