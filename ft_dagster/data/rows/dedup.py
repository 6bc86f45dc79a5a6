"""Finds duplicates: exact ones in at most 64 bytes of memory a row, near ones with MinHash when asked."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

WORDS = 5  # of a run by which rows are near


class SeenRows:
    """Is a set of 128-bit hashes in one flat table, with linear probing.

    A slot takes 16 bytes. The table grows by half when three quarters full, so while it is copied the
    old and the new one together take 16 * 2.5 / 0.75 < 54 bytes a row, and at most 32 afterwards.
    """

    FILL = 0.75
    GROWTH = 1.5

    def __init__(self, slots: int = 1024) -> None:
        self._slots = slots
        self._table = array("Q", [0]) * (2 * slots)
        self._rows = 0
        self.peak_nbytes = self.nbytes  # the most that was ever held, while growing too

    def __len__(self) -> int:
        return self._rows

    @property
    def nbytes(self) -> int:
        return len(self._table) * self._table.itemsize

    def add(self, likeness: bytes) -> bool:
        """Remember a row by its likeness (16 bytes of a hash, or more); False if it was there before."""
        low = int.from_bytes(likeness[:8], "big")
        high = int.from_bytes(likeness[8:16], "big") or 1  # a slot of two zeros is a free one
        if not self._insert(self._table, self._slots, low, high):
            return False
        self._rows += 1
        if self._rows >= self.FILL * self._slots:
            self._grow()
        return True

    @staticmethod
    def _insert(table: array[int], slots: int, low: int, high: int) -> bool:
        at = 2 * (low % slots)
        size = 2 * slots
        while table[at + 1]:
            if table[at + 1] == high and table[at] == low:
                return False
            at = (at + 2) % size
        table[at], table[at + 1] = low, high
        return True

    def _grow(self) -> None:
        slots = int(self._slots * self.GROWTH)
        table = array("Q", [0]) * (2 * slots)
        old = self._table
        self.peak_nbytes = self.nbytes + len(table) * table.itemsize
        for at in range(0, len(old), 2):
            if old[at + 1]:
                self._insert(table, slots, old[at], old[at + 1])
        self._table, self._slots = table, slots


def word_grams(words: Sequence[str], size: int = WORDS) -> set[str]:
    """Return the runs of so many words of a text; a shorter one is one run."""
    last = max(1, len(words) - size + 1)
    return {" ".join(words[i : i + size]) for i in range(last)}


class NearDuplicates:
    """Finds rows whose words overlap an earlier row's: MinHash over word 5-grams, then LSH (datasketch).

    A candidate of LSH counts only if the Jaccard similarity that the signatures estimate reaches the
    threshold. Takes some kilobytes of memory a row: the price of asking for near duplicates.
    """

    PERMUTATIONS = 128

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHashLSH

        self._threshold = threshold
        self._index = MinHashLSH(threshold=min(threshold, 0.99), num_perm=self.PERMUTATIONS)
        self._signatures: list[Any] = []

    def add(self, words: Sequence[str]) -> int | None:
        """Remember a row by its normal words; the number, among those remembered, of an earlier row that is
        near it, in which case it is not remembered.
        """
        from datasketch import MinHash

        signature = MinHash(num_perm=self.PERMUTATIONS)
        signature.update_batch([gram.encode() for gram in sorted(word_grams(words))])
        for key in sorted(self._index.query(signature)):
            if signature.jaccard(self._signatures[key]) >= self._threshold:
                return int(key)
        self._index.insert(len(self._signatures), signature)
        self._signatures.append(signature)
        return None
