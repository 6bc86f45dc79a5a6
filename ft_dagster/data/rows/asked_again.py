"""Finds which questions stand in rows that a model was trained on: of benchmarks by the rules by which rows
are left out of a training, of held-out rows and texts whole or in most of their words.

A run of words that eight held-out texts share is their template's, and says of none of them that it was
trained on: a parent and its child often have the same one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ft_dagster.data.rows.coverage import (
    RUN,
    CoverageTable,
    CoveredGrams,
    distinct_runs,
    evaluation_grams,
    likely,
)
from ft_dagster.data.rows.decontaminate import (
    LEAST_ALONE,
    LEAST_WITH_ANSWER,
    WORD,
    EvaluationItem,
    Hashes,
    Run,
    Sought,
    runs_of,
)
from ft_dagster.spec.data import DecontaminateSpec

NEARLY = 0.6  # of a held-out text's runs of three words, unless data.decontaminate.coverage says otherwise
OF_TEMPLATE = 8  # texts that share a run of words


class Found(NamedTuple):
    """Says that a row has a question, by their numbers."""

    row: int
    question: int


class AskedItems:
    """Finds all questions of benchmarks that rows overlap with, by the declared rules of decontamination."""

    def __init__(self, items: Sequence[EvaluationItem], spec: DecontaminateSpec) -> None:
        # Each is a task of its own, so that what is found says which one it is.
        named = [item._replace(task=str(number)) for number, item in enumerate(items)]
        self._grams = evaluation_grams(named, spec)
        self._owners = _owners(items, spec.ngram)

    def found_in(self, rows: Sequence[Sequence[str]]) -> Iterator[Found]:
        """Yield each question that each row, given by its normal words, has."""
        for row, first in enumerate(self._grams.overlaps(rows)):
            if first is not None:
                yield from (Found(row, question) for question in sorted(self._all_in(rows[row])))

    def _all_in(self, words: Sequence[str]) -> set[int]:
        found = {owner for run in self._grams.runs_in(words) for owner in self._owners[run]}
        if isinstance(self._grams, CoveredGrams):
            found.update(map(int, self._grams.covering(words)))
        return found


class _Owners:
    """Holds which questions have a run of words."""

    def __init__(self, runs: Mapping[tuple[int, bool], tuple[list[Hashes], list[NDArray[np.int64]]]]) -> None:
        self._runs: dict[tuple[int, bool], tuple[Hashes, NDArray[np.int64]]] = {}
        for kind, (hashes, owners) in runs.items():
            joined = np.concatenate(hashes)
            order = np.argsort(joined, kind="stable")
            self._runs[kind] = joined[order], np.concatenate(owners)[order]

    def __getitem__(self, run: Run) -> list[int]:
        hashes, owners = self._runs[run.length, run.short]
        sought = np.uint64(run.hash)
        first, after = np.searchsorted(hashes, sought), np.searchsorted(hashes, sought, side="right")
        found: list[int] = owners[first:after].tolist()
        return found


def _owners(items: Sequence[EvaluationItem], ngram: int) -> _Owners:
    """Return the owners of the runs that `EvaluationGrams` looks for."""
    runs = defaultdict[tuple[int, bool], tuple[list[Hashes], list[NDArray[np.int64]]]](lambda: ([], []))
    least, alone = WORD * ngram, WORD * min(ngram, LEAST_ALONE)

    def add(length: int, short: bool, hashes: Hashes, owner: int) -> None:
        found, owners = runs[length, short]
        found.append(hashes)
        owners.append(np.full(len(hashes), owner, np.int64))

    for owner, item in enumerate(items):
        questions, answers = ([Sought.of(text) for text in texts] for texts in (item.questions, item.answers))
        for text in (*questions, *answers):
            if text.size >= alone:
                for length, _, hashes in text.runs(min(least, text.size)):
                    add(length, False, hashes, owner)
        for text in questions:
            if WORD * LEAST_WITH_ANSWER <= text.size < alone:
                add(len(text.hashes), True, runs_of(text.hashes, len(text.hashes)), owner)
    return _Owners(runs)


class HeldOutTexts:
    """Finds held-out texts of which rows have most: the rule of `coverage`, without the runs of a template.

    Texts of fewer than 8 words cannot be told from ordinary speech, and are found by nothing here.
    """

    def __init__(self, texts: Iterable[Sequence[str]], coverage: float | None) -> None:
        """Take each text, all of them different, by its normal words."""
        sought = [Sought.of_words(words) for words in texts]
        runs = [distinct_runs(text, RUN) for text in sought]
        known, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *runs]), return_counts=True)
        template = known[counts >= OF_TEMPLATE]
        self._table = CoverageTable(RUN, coverage or NEARLY)
        for number, text in enumerate(sought):
            if text.size >= WORD * LEAST_ALONE:
                self._table.add(text, str(number), but=template)
        self._table.close()

    def found_in(self, rows: Sequence[Sequence[str]]) -> Iterator[Found]:
        """Yield each text that each row, given by its normal words, has most of."""
        for row in likely([self._table], rows):
            for text in self._table.covering(Sought.of_words(rows[row])):
                yield Found(row, int(text))
