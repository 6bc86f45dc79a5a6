"""Finds rows of one split that are nearly rows of another: by the words that their texts have in a row.

Exact, and without a signature of every row: runs of words of the few rows are indexed, the many are streamed
past them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from ft_dagster.data.rows.content import words_of
from ft_dagster.data.rows.dedup import word_grams
from ft_dagster.data.rows.rows import Row

THRESHOLD = 0.85  # Jaccard similarity of runs of five words, as data.deduplicate has it


class NearAcross:
    """Is an index of some rows, by number. `near(row)`: the numbers of those that a row is near.

    Of a row with n runs each near one shares at least 0.85 n, so that it holds one of any other 0.15 n + 1 of
    them: the rarest are indexed (prefix filtering, Chaudhuri et al., ICDE 2006).
    """

    def __init__(self, rows: Sequence[Row], threshold: float = THRESHOLD) -> None:
        self._threshold = threshold
        self._grams = [_grams(row) for row in rows]
        often = Counter(gram for grams in self._grams for gram in grams)
        self._index: dict[str, list[int]] = defaultdict(list)
        for number, grams in enumerate(self._grams):
            rarest = sorted(grams, key=lambda gram: (often[gram], gram))
            for gram in rarest[: len(grams) - math.ceil(threshold * len(grams) - 1e-9) + 1]:
                self._index[gram].append(number)

    def near(self, row: Row) -> set[int]:
        grams = _grams(row)
        found = {number for gram in grams for number in self._index.get(gram, ())}
        return {number for number in found if self._alike(grams, self._grams[number])}

    def _alike(self, one: set[str], other: set[str]) -> bool:
        shared = len(one & other)
        return shared >= self._threshold * (len(one) + len(other) - shared) - 1e-9


def near_across(rows: Iterable[Row], few: Sequence[Row]) -> tuple[set[int], set[int]]:
    """Return the numbers of `rows` that are near any of the `few`, and of the few that any is near."""
    index, many, those = NearAcross(few), set[int](), set[int]()
    for number, row in enumerate(rows):
        near = index.near(row)
        if near:
            many.add(number)
            those |= near
    return many, those


def _grams(row: Row) -> set[str]:
    return word_grams([word for _, text in row.normal for word in words_of(text)])
