"""Find texts that have most of a question, though no long run of it: one inserted word breaks each long run.

A question overlaps where a part of the text, half as long again as the question at most, has a declared share
of its runs of three words, and nine tenths of its words. The share alone would find "Which of the following
is the most likely cause of" whatever it is a cause of.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ft_dagster.data.rows.decontaminate import (
    LEAST_ALONE,
    LEAST_WITH_ANSWER,
    WORD,
    EvaluationGrams,
    EvaluationItem,
    GramSet,
    Hashes,
    Places,
    ShortQuestion,
    Sought,
    runs_of,
    sought_words,
    word_hashes,
)
from ft_dagster.spec.data import DecontaminateSpec

RUN, SHORT_RUN = 3 * WORD, 2 * WORD  # of a question of at least 8 words, and of one of 3 to 7
OF_WORDS = 0.9  # that must be there
WIDER = 1.5  # than the question, at most, is the part of a text that has them
LONGEST = 128 * WORD  # of a longer text some run of `ngram` words outlasts what is inserted here and there


def evaluation_grams(items: Iterable[EvaluationItem], spec: DecontaminateSpec) -> EvaluationGrams:
    """Return the searcher for what rows and general text must not overlap, as declared."""
    if spec.coverage is None:
        return EvaluationGrams(items, spec.ngram)
    return CoveredGrams(items, spec.ngram, spec.coverage)


class CoveredGrams(EvaluationGrams):
    """Finds questions and answers by their long runs of words, and by most of their short ones.

    A question of 3 to 7 words overlaps where one of its answers stands beside it, as by its whole run.
    """

    def __init__(self, items: Iterable[EvaluationItem], n: int, coverage: float) -> None:
        """Collect the runs of all items; `items` is read once."""
        self._alone = WORD * min(n, LEAST_ALONE)
        self._tables = (CoverageTable(RUN, coverage), CoverageTable(SHORT_RUN, coverage))
        super().__init__(self._noted(items), n)
        for table in self._tables:
            table.close()

    def overlap(self, words: Sequence[str]) -> str | None:
        return super().overlap(words) or self._covered(words)

    def overlaps(self, texts: Sequence[Sequence[str]]) -> list[str | None]:
        found = super().overlaps(texts)
        for number in likely(self._tables, texts):
            if found[number] is None:
                found[number] = self._covered(texts[number])
        return found

    def covering(self, words: Sequence[str]) -> Iterator[str]:
        """Yield the task of each question and answer that a text has most of."""
        text = Sought.of_words(words)
        return (task for table in self._tables for task in table.covering(text))

    def _covered(self, words: Sequence[str]) -> str | None:
        return next(self.covering(words), None)

    def _noted(self, items: Iterable[EvaluationItem]) -> Iterator[EvaluationItem]:
        long, short = self._tables
        for item in items:
            answers = [text for text in map(Sought.of, item.answers) if len(text.hashes)]
            questions = list(map(Sought.of, item.questions))
            for text in (*questions, *answers):
                if self._alone <= text.size <= LONGEST:
                    long.add(text, item.task)
            for text in questions if answers else ():
                if WORD * LEAST_WITH_ANSWER <= text.size < self._alone:
                    short.add(text, item.task, answers)
            yield item


def likely(tables: Sequence[CoverageTable], texts: Sequence[Sequence[str]]) -> Iterator[int]:
    """Yield the numbers of texts in which a run stands that leads to a text of these tables; all of them are
    searched together, which is several times as fast. Of scripts without spaces: all texts.
    """
    spaced = [number for number, words in enumerate(texts) if sought_words(words) is words]
    yield from sorted({*range(len(texts))} - {*spaced})
    hashes = word_hashes([word for number in spaced for word in texts[number]])
    ends = np.cumsum([len(texts[number]) for number in spaced])
    found = set[int]()
    for table in tables:
        found.update(table.led_from(hashes, ends).tolist())
    yield from (spaced[place] for place in sorted(found))


class _Covered(NamedTuple):
    """Holds a text of the evaluation: its distinct runs and words, sorted, and how many of each must be
    there.

    `span`: the words of the part of a text that has them, at most. `answers`: see `ShortQuestion`; None: it
    counts by itself.
    """

    task: str
    runs: Hashes
    most: int
    words: Hashes
    span: int
    answers: Mapping[int, Hashes] | None

    @property
    def most_words(self) -> int:
        return _share_of(len(self.words), OF_WORDS)


class CoverageTable:
    """Finds texts of the evaluation by their runs of one size. The rarest runs alone of each lead to it: so
    many that two of them at least are in any text that has enough.
    """

    def __init__(self, size: int, coverage: float) -> None:
        """Take the size of a run, in sixths of a word, and how much of a text counts."""
        self._size, self._coverage = size, coverage
        self._texts: dict[tuple[bytes, ...], _Covered] = {}

    def add(self, text: Sought, task: str, answers: Sequence[Sought] = (), but: Hashes | None = None) -> None:
        """Add a text; with `answers` it counts only where one of them stands beside it. `but`: runs that do
        not count.
        """
        runs = distinct_runs(text, self._size)
        runs = runs if but is None else np.setdiff1d(runs, but, assume_unique=True)
        if not len(runs):
            return
        beside = ShortQuestion(0)
        for answer in answers:
            beside.add(answer.hashes)
        key = (task.encode(), text.hashes.tobytes(), *(answer.hashes.tobytes() for answer in answers))
        most, span = _share_of(len(runs), self._coverage), math.ceil(WIDER * len(text.hashes))
        covered = _Covered(
            task, runs, most, np.unique(text.hashes), span, beside.answers if answers else None
        )
        self._texts.setdefault(key, covered)

    def close(self) -> None:
        """Build the table after the last text was added."""
        self._all = list(self._texts.values())
        self._texts = {}
        known, counts = np.unique(_joined([text.runs for text in self._all]), return_counts=True)
        led, owners = list[Hashes](), list[NDArray[np.intp]]()
        for number, text in enumerate(self._all):
            common = counts[np.searchsorted(known, text.runs)]
            rarest = text.runs[np.argsort(common, kind="stable")]
            led.append(rarest[: len(rarest) - text.most + _seen_of(text)])
            owners.append(np.full(len(led[-1]), number, np.intp))
        runs = _joined(led)
        order = np.argsort(runs, kind="stable")
        self._owners = np.concatenate(owners or [np.zeros(0, np.intp)])[order]
        distinct, self._first = np.unique(runs[order], return_index=True)
        self._end = np.append(self._first[1:], len(order))
        self._leads = GramSet(distinct)

    def led_from(self, words: Hashes, ends: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return the places, in texts joined into one piece, of those that may have most of a text of the
        evaluation. `ends`: where each text ends; none has a letter of a script without spaces.
        """
        length = self._size // WORD
        starts = self._leads.positions(runs_of(words, length))
        text = np.searchsorted(ends, starts, side="right")
        return text[starts + length <= ends[text]]

    def covering(self, text: Sought) -> Iterator[str]:
        """Yield the task of each text of the evaluation that this text has most of."""
        placed = list(text.runs(self._size))
        runs = _joined([hashes for _, _, hashes in placed])
        leads = np.unique(self._leads.find(runs))
        if not len(leads):
            return
        met = Counter(
            owner for lead in leads for owner in self._owners[self._first[lead] : self._end[lead]].tolist()
        )
        suspects = [self._all[owner] for owner, seen in met.items() if seen >= _seen_of(self._all[owner])]
        if not suspects:
            return
        starts = np.concatenate([begin for _, begin, _ in placed])
        ends = np.concatenate([begin + length for length, begin, _ in placed])
        order = np.argsort(starts, kind="stable")
        found = _Placed(text.hashes, runs[order], starts[order], ends[order])
        yield from (each.task for each in suspects if found.covers(each))


class _Placed:
    """Holds the runs of one text, in order of their beginnings, with where they begin and end."""

    def __init__(self, words: Hashes, runs: Hashes, starts: NDArray[np.intp], ends: NDArray[np.intp]) -> None:
        self._words, self._runs, self._starts, self._ends = words, runs, starts, ends
        self._places = Places(words)

    def covers(self, asked: _Covered) -> bool:
        at = np.searchsorted(asked.runs, self._runs)
        at[at == len(asked.runs)] = 0
        held = np.flatnonzero(asked.runs[at] == self._runs)
        first, seen = 0, Counter[int]()
        for place in held.tolist():
            seen[int(at[place])] += 1
            while self._ends[place] - self._starts[held[first]] > asked.span:
                gone = int(at[held[first]])
                seen[gone] -= 1
                if not seen[gone]:
                    del seen[gone]
                first += 1
            if len(seen) >= asked.most and self._is_there(
                asked, int(self._starts[held[first]]), int(self._ends[place])
            ):
                return True
        return False

    def _is_there(self, asked: _Covered, start: int, end: int) -> bool:
        """Say whether the words around a part with enough of the runs are those of the text, and an answer is
        beside it where it needs one.
        """
        room = asked.span - (end - start)
        around = self._words[max(0, start - room) : end + room]
        if np.isin(asked.words, around).sum() < asked.most_words:
            return False
        if asked.answers is None:
            return True
        first_end, last_start = self._places.around(asked.answers)
        return first_end <= start or end <= last_start


def distinct_runs(text: Sought, size: int) -> Hashes:
    """Return the hashes of the runs of one size of a text, each once, sorted."""
    return np.unique(_joined([hashes for _, _, hashes in text.runs(size)]))


def _joined(parts: Sequence[Hashes]) -> Hashes:
    return np.concatenate([np.zeros(0, np.uint64), *parts])


def _share_of(count: int, share: float) -> int:
    return max(1, math.ceil(share * count - 1e-9))


def _seen_of(text: _Covered) -> int:
    """Return how many of its rarest runs any text has that has enough of all."""
    return min(2, text.most)
