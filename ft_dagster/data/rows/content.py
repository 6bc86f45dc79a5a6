"""Defines the one normal form of text, and compares by it: the same content, and shared words.

Questions, duplicates, splits and decontamination all go by it, so that what one of them takes for the same
the others do not take for two. It is strict: case, spacing, compatibility forms (`ﬁ`, full-width letters) and
characters that nobody sees do not make another content, since a model learns the same from both, and a copy
that differs in them alone would carry a test question into the training.

Identity 1, which is of the normal form of the texts alone, loses two things. Some compatibility characters
mean something else than what the normal form makes of them (`is_lost`): 10⁶ is not 106. And a conversation
may have tools, calls, names, reasoning, or turns that are not trained. A record with any of these is known by
identity 2, of all that it says, in a form in which such characters stay (`exact_text`); any other by identity
1. In all else the two forms are alike.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import groupby

# Raise it, and the versions of the stages that read it, when the same text changes its form.
NORMALIZATION = 1
EXACT = 2  # the number of the exact form
Part = tuple[str, str] | tuple[str, str, str]  # role, text, as JSON what else a turn says
ID_LENGTH = 32  # hexadecimal digits of an identity that name a question
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')  # of JSON
WORD = re.compile(r"[^\W_]+")
# Of ASCII, what is in no word made a space: splitting is then faster than looking for words.
_BREAKS = bytes(code if chr(code).isalnum() else 0x20 for code in range(128)).ljust(256)
_AS_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
# How Unicode marks a character that is raised, lowered, a fraction, in a circle or a square, or of another
# alphabet of mathematics.
_MEANT = {"<super>", "<sub>", "<fraction>", "<circle>", "<square>", "<font>"}
# Control characters but white space.
CONTROLS = bytes([*range(0x09), *range(0x0E, 0x20), 0x7F])
# These beyond ASCII, and Unicode's Default_Ignorable_Code_Point: soft hyphens, zero-width spaces and joiners,
# variation selectors.
_UNSEEN = re.compile(
    "[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def normal_text(text: str) -> str:
    """Return Unicode's NFKC_Casefold of a text, its runs of white space one space each, none at its ends."""
    return " ".join(folded(text).split())


def folded(text: str) -> str:
    """Return the normal form of a text but for its white space: what has none in it stands in both or in
    neither.
    """
    if text.isascii():
        return text.encode().translate(None, CONTROLS).decode().lower()
    cased = unicodedata.normalize("NFKC", _UNSEEN.sub("", text)).casefold()
    return unicodedata.normalize("NFKC", cased)


@cache
def is_lost(character: str) -> bool:
    """Say whether the normal form makes another meaning of a character: 10⁶ would be 106, 1½ 11⁄2, 1① 11,
    ℝ r, 5㎡ 5m2; of signs of several characters (`…`, `ﬁ`, `№`, `Ⅳ`), only of those with a digit (2⒈ would
    be 21.).
    """
    mark, *codes = unicodedata.decomposition(character).split() or [""]
    return mark in _MEANT or (mark == "<compat>" and any(chr(int(code, 16)).isdigit() for code in codes))


def loses(text: str) -> bool:
    """Say whether a text has characters that the normal form takes for others."""
    if text.isascii() or unicodedata.is_normalized("NFKC", text):
        return False
    return any(map(is_lost, set(text)))


def exact_text(text: str) -> str:
    """Return the normal form of a text but for characters that mean something else there: these stay."""
    if not loses(text):
        return normal_text(text)
    parts = groupby(unicodedata.normalize("NFC", _UNSEEN.sub("", text)), is_lost)
    kept = ((lost, "".join(characters)) for lost, characters in parts)
    return " ".join("".join(part.casefold() if lost else folded(part) for lost, part in kept).split())


def words_of(normal: str) -> list[str]:
    """Return the words of a normal text, in order: runs of letters and digits. For what is nearly the
    same.
    """
    if normal.isascii():
        return normal.encode().translate(_BREAKS).decode().split()
    return WORD.findall(normal)


def json_in(form: Callable[[str], str], content: str) -> str:
    """Return JSON with each string in it, names among them, in this form; it may be nested however deep."""
    return _STRING.sub(lambda found: _in_form(form, found[0]), content)


def _in_form(form: Callable[[str], str], literal: str) -> str:
    try:
        return _AS_JSON.encode(form(json.loads(literal)))
    except ValueError:  # of tools that are no JSON
        return literal


def unescaped(content: str) -> str:
    """Return JSON with each text in it as it reads, those in a text that holds JSON too."""

    def read(found: re.Match[str]) -> str:
        try:
            text = json.loads(found[0])
        except ValueError:
            return found[0]
        return f" {unescaped(text) if text[:1] in ('{', '[') else text} "

    return _STRING.sub(read, content)


def identity_of(kind: str, parts: Iterable[Part], tools: str = "", form: int = NORMALIZATION) -> bytes:
    """Return the sha256 of a content of parts, their texts in this form, and of tools, as JSON, where there
    are any: equal where they are, wherever it stands.
    """
    content = _AS_JSON.encode([form, kind, list(parts), *([tools] if tools else [])])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()


def question_ids(likenesses: Sequence[bytes]) -> list[str]:
    """Return `<number>:<likeness>` of each content, in hex; the number counts its equals, from 0.

    Equals are interchangeable, so that the list has the same members in whatever order it is given.
    """
    seen: dict[bytes, int] = {}
    found = []
    for likeness in likenesses:
        number = seen.get(likeness, 0)
        seen[likeness] = number + 1
        found.append(f"{number}:{likeness.hex()[:ID_LENGTH]}")
    return found
