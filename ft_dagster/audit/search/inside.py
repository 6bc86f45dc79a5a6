"""Tells whether a text stands inside another: in normal form, as whole words, across tags and line breaks.

`normal_text` decides, over every way in which a text may be read (`views`), but for what writers of a script
leave out or add at will (`loosely`). Before it comes a filter that is faster, over many texts at once: what
is looked for has a word, and where that word stands in no view of a text, whatever the white space, nothing
of it does.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import AnyStr

from ft_dagster.data.rows.content import CONTROLS, folded, normal_text

# What ends a text that stands among others, one of ASCII and any other: no tag, no entity, no broken word and
# no composed letter reaches over it.
PLAIN_END, END = "\x1d", "\ue000"
_TAG = re.compile(f"<[^<>{PLAIN_END}{END}]+>")
# Of JSON and of most programs, however often it was written into another: `\\u00fc`, `\\n`.
_ESCAPES = re.compile(r"(?<!\\)(?:\\++u[0-9a-fA-F]{4})+|(?<!\\)\\++[nrt]")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
_LOWER = bytes(range(0x41)) + bytes(range(0x61, 0x7B)) + bytes(range(0x5B, 0x100))
_SQUEEZED = CONTROLS.replace(PLAIN_END.encode(), b"") + b" \t\n\x0b\x0c\r-"  # what no word of ASCII has
_JAMO = frozenset((*range(0x1160, 0x1200), *range(0xD7B0, 0xD800)))
_CASED_MARK = "\u0345"  # the one mark that is a letter once its case is folded
# Scripts in which a word begins without a mark, or a name goes on as another word: Chinese, Japanese, Thai,
# Lao, Khmer, Burmese, Korean.
_OF_UNSPACED = (
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff"
    "\uaa60-\uaa7f\uac00-\ud7a3\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)
_UNSPACED = re.compile(_OF_UNSPACED)
_BETWEEN = re.compile(f"[\\s\u00b7\u30a0\u30fb=]+(?={_OF_UNSPACED})")
_GREEK = {  # letters with accents, which capitals do not bear
    letter: unicodedata.normalize("NFD", letter)[0]
    for letter in map(chr, (*range(0x370, 0x400), *range(0x1F00, 0x2000)))
    if letter.islower() and unicodedata.normalize("NFD", letter) != letter
}
# The signs for vowels of Arabic and Hebrew, and the stroke that makes an Arabic word longer.
_SIGNS = (
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u0652\u0656-\u065f\u0670"
    "\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"
)
_LOOSE = re.compile(f"[{_SIGNS}{''.join(_GREEK)}]")
_HAS_LOOSE = re.compile("[\u0370-\u03ff\u0590-\u06ff\u1f00-\u1fff]")  # Greek, Hebrew, Arabic


def views(text: str) -> Iterator[str]:
    """Yield the text; with its entities read (`&uuml;`), its tags taken out or a space each, its lines
    joined.
    """
    for plain in as_written(text):
        yield plain
        if "\n" in plain:
            yield joined(plain)


def as_written(text: str) -> Iterator[str]:
    """Yield the text; with its escapes and entities read, its tags taken out or a space each."""
    for one in _read(text):
        yield from dict.fromkeys((one, _TAG.sub("", one), _TAG.sub(" ", one)) if "<" in one else (one,))


def _read(text: str) -> Iterable[str]:
    """Return the text; with its escapes read, its entities, and both."""
    found = (text, _ESCAPES.sub(_unescaped, text)) if "\\" in text else (text,)
    return dict.fromkeys((*found, *(html.unescape(one) for one in found if "&" in one)))


def _unescaped(escapes: re.Match[str]) -> str:
    """Return what one of `_ESCAPES` means."""
    letters = escapes[0].replace("\\", "")
    if letters in _ESCAPED:
        return _ESCAPED[letters]
    return bytes.fromhex(letters.replace("u", "")).decode("utf-16-be", "replace")


def loosely(normal: str, like: str) -> str:
    """Return a normal text without what is written or left out at will in the scripts of another, `like`: the
    dot of an i, which in Turkish tells two letters; those of a Russian e; accents of Greek, which capitals do
    not bear; signs for vowels of Arabic and Hebrew; spaces and dots between letters of scripts without
    spaces.
    """
    if normal.isascii():
        return normal
    plain = normal.replace("i\u0307", "i").replace("\u0131", "i").replace("\u0451", "\u0435")
    if _HAS_LOOSE.search(like):
        plain = _LOOSE.sub(lambda one: _GREEK.get(one[0], ""), plain)
    return _BETWEEN.sub(_between, plain) if _UNSPACED.search(like) else plain


def _between(space: re.Match[str]) -> str:
    before = space.string[space.start() - 1 : space.start()]
    return "" if _UNSPACED.match(before) else space[0]


def joined(text: str) -> str:
    """Return the text's lines without a break between them, nor the hyphen and the space at it."""
    return _joined(text)[0]


def _joined(text: str) -> tuple[str, bool]:
    """Return (see `joined`, whether a line begins with what belongs to the letter before it)."""
    before, *lines = text.split("\n")
    parts, marked = [], False
    for line in lines:
        if before.endswith((PLAIN_END, END)):
            parts += [before, "\n"]
            before = line
            continue
        before = before.removesuffix("\r").rstrip(" \t")
        parts.append(before[:-1] if before.endswith(("-", "\u00ad", "\u2010")) else before)
        before = line.lstrip(" \t")
        marked = marked or (before > "\u0300" and _belongs(before[0]))
    return "".join((*parts, before)), marked


def _belongs(character: str) -> bool:
    """Say whether a character is a mark, or a vowel or an end of Korean, which the letter before it
    takes in.
    """
    return unicodedata.category(character)[0] == "M" or ord(character) in _JAMO


def words_in(normal: str) -> list[str]:
    """Return the words of a normal text: runs of letters and digits with the marks that belong to them."""
    return "".join(each if _is_in_word(each) else " " for each in normal).split()


def _is_in_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character)[0] == "M"


@dataclass(frozen=True)
class Inside:
    """Is a text that is looked for inside others; `part`: also inside a word."""

    text: str
    part: bool = False

    @cached_property
    def normal(self) -> str:
        return self._loosely(self._normal)

    @cached_property
    def _normal(self) -> str:
        return normal_text(self.text)

    def _loosely(self, text: str) -> str:
        return loosely(text, self._normal)

    @cached_property
    def words(self) -> list[str]:
        return words_in(self.normal)

    @cached_property
    def key(self) -> str:
        """Return its longest word; of one without any, its longest run without a space; empty of an empty
        one.
        """
        return max(self.words or self.normal.split(), key=len, default="")

    def is_in(self, text: str) -> bool:
        """Say whether it stands in a text."""
        return any(self._stands_in(self._loosely(normal_text(view))) for view in views(text))

    def _stands_in(self, normal: str) -> bool:
        at = normal.find(self.normal)
        while at >= 0:
            if self.part or self._is_whole(normal, at):
                return True
            at = normal.find(self.normal, at + 1)
        if len(self.words) < 2:
            return False
        wanted, there = " ".join(self.words), " ".join(words_in(normal))  # whatever stands between words
        return wanted in there if self.part else f" {wanted} " in f" {there} "

    def _is_whole(self, normal: str, at: int) -> bool:
        end = at + len(self.normal)
        begins = at == 0 or not _go_on(normal[at - 1], normal[at])
        return begins and (end == len(normal) or not _go_on(normal[end - 1], normal[end]))

    def likely(self, texts: Sequence[str]) -> set[int]:
        """Return the texts in which it may stand: each where it does, and some others. Those of ASCII are
        looked through by themselves, for to fold others takes longer.
        """
        found = set[int]()
        for plain in (True, False):
            numbers = [at for at, text in enumerate(texts) if text.isascii() is plain]
            if not numbers:
                continue
            for one in _read(f"{PLAIN_END if plain else END}\n".join(texts[at] for at in numbers)):
                for view in dict.fromkeys((one, _TAG.sub("", one)) if "<" in one else (one,)):
                    found.update(numbers[at] for at in self._numbers(view, len(numbers), plain=plain))
        return found

    def _numbers(self, text: str, several: int, *, plain: bool) -> Iterable[int]:
        """Return which of several texts that an end stands between have the key."""
        if text.count(PLAIN_END if plain else END) != several - 1:  # one has it inside
            return range(several)
        if text.isascii():
            if not self.key.isascii():
                return ()
            squeezed = text.encode().translate(_LOWER, _SQUEEZED)
            return _places(self.key.encode().translate(None, _SQUEEZED), squeezed, PLAIN_END.encode())
        if plain:  # and no more, now that its entities are read
            if END in text:
                return range(several)
            text = text.replace(PLAIN_END, END)
        there = folded(text)
        found = set(_places(self.key, self._loosely(there), END))
        if "\n" in text:
            lines, marked = _joined(there)
            again = marked or _CASED_MARK in text  # it is composed, and folded, with what stands before it
            found.update(_places(self.key, self._loosely(folded(joined(text)) if again else lines), END))
        return found


def _places(key: AnyStr, there: AnyStr, end: AnyStr) -> Iterator[int]:
    """Yield after how many ends a key stands, each place."""
    at, last, number = there.find(key), 0, 0
    while at >= 0:
        number += there.count(end, last, at)
        yield number
        last = at
        at = there.find(key, at + 1)


def _go_on(one: str, other: str) -> bool:
    """Say whether a word goes on from one character to the next."""
    if not (_is_in_word(one) and _is_in_word(other)):
        return False
    return not (_UNSPACED.match(one) or _UNSPACED.match(other))


@dataclass(frozen=True)
class AllInside:
    """Holds several texts that are looked for in one row, each in any of its texts."""

    each: tuple[Inside, ...]

    @classmethod
    def of(cls, texts: Iterable[str], *, part: bool) -> AllInside | None:
        """Return the search for these texts, or None where nothing is left of them in normal form."""
        found = tuple(one for one in (Inside(text, part) for text in dict.fromkeys(texts)) if one.key)
        return cls(found) if found else None

    @cached_property
    def rarest(self) -> Inside:
        return max(self.each, key=lambda one: len(one.key))

    def are_in(self, texts: Sequence[str]) -> bool:
        return all(any(map(one.is_in, texts)) for one in self.each)


def rows_with(sought: Sequence[AllInside], rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the rows in which any of what is sought stands, in order."""
    texts = [text for row in rows for text in row]
    owners = [at for at, row in enumerate(rows) for _ in row]
    found = set[int]()
    for one in sought:
        likely = {owners[number] for number in one.rarest.likely(texts)} - found
        found.update(at for at in likely if one.are_in(rows[at]))
    return sorted(found)
