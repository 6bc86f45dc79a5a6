"""Find rows that overlap the evaluation sets: shared runs of n words, by 64-bit hash."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORD = re.compile(r"\w+")
SHORTEST = 8  # words of an evaluation text shorter than n that still count, as one run of its own length
MOST_KNOWN = 1 << 17  # words whose hash is kept
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that every position of a run counts

Hashes = NDArray[np.uint64]


class EvaluationGrams:
    """The n-grams of the evaluation texts as 64-bit hashes: 10 to 12 bytes each.

    Words are runs of letters and digits in lower case. A text of fewer than n words, but at least 8,
    must be contained whole; a shorter one is ignored, since it would match by chance.
    """

    def __init__(self, texts: Iterable[str], n: int) -> None:
        """`texts` is read once; `n` in words."""
        self.n = n
        self.texts = 0
        self.ignored = 0
        found: dict[int, list[Hashes]] = {}
        waiting = 0
        for text in texts:
            words = _word_hashes(text)
            length = n if len(words) >= n else len(words)
            if length < min(n, SHORTEST):
                self.ignored += 1
                continue
            self.texts += 1
            waiting += len(words)
            found.setdefault(length, []).append(_runs(words, length))
            if waiting > 1_000_000:
                found, waiting = {size: [_union(parts)] for size, parts in found.items()}, 0
        self._grams = {size: _GramSet(_union(parts)) for size, parts in sorted(found.items())}

    def __len__(self) -> int:
        return sum(len(grams.hashes) for grams in self._grams.values())

    def overlaps(self, text: str) -> bool:
        """Whether the text shares a run of words with any evaluation text."""
        if not self._grams:
            return False
        words = _word_hashes(text)
        return any(
            len(words) >= length and grams.has_any(_runs(words, length))
            for length, grams in self._grams.items()
        )


def _word_hashes(text: str) -> Hashes:
    words = WORD.findall(text.lower())
    if len(_known) > MOST_KNOWN:
        _known.clear()
    return np.fromiter(map(_known.__getitem__, words), np.uint64, len(words))


class _WordHashes(dict[str, int]):
    """The hash of each word met; a dictionary, since words are asked for by the million."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
        self[word] = int.from_bytes(digest, "big")
        return self[word]


_known = _WordHashes()


def _runs(words: Hashes, length: int) -> Hashes:
    """The hash of every run of `length` words: a polynomial in a fixed odd number, modulo 2**64."""
    count = len(words) - length + 1
    hashes = np.zeros(count, np.uint64)
    for offset in range(length):
        hashes = hashes * MULTIPLIER + words[offset : offset + count]
    return hashes


def _union(parts: list[Hashes]) -> Hashes:
    return np.unique(np.concatenate(parts))


class _GramSet:
    """Sorted hashes behind a bitmap of at least 16 bits a hash: most of what is not in it costs one look."""

    def __init__(self, hashes: Hashes) -> None:
        self.hashes = hashes
        size = 1 << max(10, (2 * len(hashes)).bit_length())  # bytes
        self._mask = np.uint64(size - 1)
        self._bits = np.zeros(size, np.uint8)
        np.bitwise_or.at(self._bits, *self._places(hashes))

    def has_any(self, hashes: Hashes) -> bool:
        byte, bit = self._places(hashes)
        likely = hashes[(self._bits[byte] & bit) != 0]
        if not len(likely):
            return False
        at = np.searchsorted(self.hashes, likely)
        at[at == len(self.hashes)] = 0
        return bool((self.hashes[at] == likely).any())

    def _places(self, hashes: Hashes) -> tuple[Any, Any]:
        bit = np.left_shift(np.uint8(1), (hashes & np.uint64(7)).astype(np.uint8))
        return (hashes >> np.uint64(3)) & self._mask, bit
