"""Defines the one normal form of text, and compares by it: the same content, and shared words.

Questions, duplicates, splits, decontamination and records all go by it, so that what one of them takes for
the same the others do not take for two. It is strict: case, spacing, compatibility forms (`ﬁ`, full-width
letters) and characters that nobody sees do not make another content, since a model learns the same from
both, and a copy that differs in them alone would carry a test question into the training.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence

# Raise it, and the versions of the stages that read it, when the same text changes its form.
NORMALIZATION = 1
ID_LENGTH = 32  # hexadecimal digits of an identity that name a question
WORD = re.compile(r"[^\W_]+")
# Of ASCII, what is in no word made a space: splitting is then faster than looking for words.
_BREAKS = bytes(code if chr(code).isalnum() else 0x20 for code in range(128)).ljust(256)
_AS_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
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


def words_of(normal: str) -> list[str]:
    """Return the words of a normal text, in order: runs of letters and digits. For what is nearly the
    same.
    """
    if normal.isascii():
        return normal.encode().translate(_BREAKS).decode().split()
    return WORD.findall(normal)


def identity_of(kind: str, parts: Iterable[tuple[str, str]]) -> bytes:
    """Return the sha256 of a content of parts, each (role, normal text): equal where they are, wherever it
    stands.
    """
    content = _AS_JSON.encode([NORMALIZATION, kind, list(parts)])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()


def question_ids(identities: Sequence[bytes]) -> list[str]:
    """Return `<number>:<identity>` of each content, in hex; the number counts its equals, from 0.

    Equals are interchangeable, so that the list has the same members in whatever order it is given.
    """
    seen: dict[bytes, int] = {}
    found = []
    for identity in identities:
        number = seen.get(identity, 0)
        seen[identity] = number + 1
        found.append(f"{number}:{identity.hex()[:ID_LENGTH]}")
    return found
