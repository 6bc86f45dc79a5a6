"""Find texts that overlap the evaluation sets: shared runs of words, by 64-bit hash.

What is looked for are bare questions and answers, without the words of a task's template, which no training
row has. Words are those of the normal form of a text (`content`).

Of scripts that are written without spaces between words each letter is looked for by itself, without vowel
signs and tone marks, and counts as a part of a word: half of one in Chinese, Japanese and Burmese, whose
words have about two letters, a third of one in Thai, Lao and Khmer, whose words have about three. 13 words in
a row are then 26 and 39 letters, wherever a clause ends; 13 letters would be a phrase that many texts share.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ft_dagster.data.files.tables import open_table
from ft_dagster.data.rows.content import normal_text, words_of

LEAST_ALONE = 8  # words of an evaluation text shorter than n that count by themselves, as one run
LEAST_WITH_ANSWER = 3  # words of a shorter question: it counts where an answer of it stands beside it
WORD = 6  # the size of a word; of a letter of a script without spaces 3 or 2
MOST_KNOWN = 1 << 17  # words whose hash is kept
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that every position of a run counts
ITEMS_SCHEMA = pa.schema(
    [("task", pa.string()), ("questions", pa.list_(pa.string())), ("answers", pa.list_(pa.string()))]
)

_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3041-\u30ff\u31f0-\u31ff\U0001b000-\U0001b16f"
_BURMESE = "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"
_HALVES = _HAN + _KANA + _BURMESE
_THIRDS = "\u0e00-\u0eff\u1780-\u17ff"  # Thai, Lao, Khmer
_LATER = re.compile("[\u0e00-\U0003ffff]")  # four times as fast, and in no text of Europe
_UNSPACED = re.compile(f"[{_HALVES}{_THIRDS}]")
_PARTS = re.compile(f"[{_HALVES}{_THIRDS}]|[^{_HALVES}{_THIRDS}]+")
_HALF, _THIRD = re.compile(f"[{_HALVES}]"), re.compile(f"[{_THIRDS}]")

Hashes = NDArray[np.uint64]
Sizes = NDArray[np.int64]


class EvaluationItem(NamedTuple):
    """Holds a question of an evaluation task as it must not be trained on: the texts that it consists of,
    each of which gives it away, and its right answers.
    """

    questions: tuple[str, ...]
    answers: tuple[str, ...] = ()
    task: str = ""


def read_items(file: Path) -> Iterator[EvaluationItem]:
    """Yield what `evaluation.tasks.texts` wrote; streamed."""
    with open_table(file) as table:
        for batch in table.iter_batches(batch_size=512):
            for row in batch.to_pylist():
                yield EvaluationItem(tuple(row["questions"]), tuple(row["answers"]), row["task"])


def sought_words(words: Sequence[str]) -> Sequence[str]:
    """Return the words by which an overlap is searched: of scripts written without spaces each letter.

    The same object where there are none of these.
    """
    said = "".join(words)
    if said.isascii() or not (_LATER.search(said) and _UNSPACED.search(said)):
        return words
    return [part for word in words for part in _PARTS.findall(word)]


class Sought(NamedTuple):
    """Holds a text of the evaluation: its words, and how much of a word each is, in sixths; None: a whole
    one.
    """

    hashes: Hashes
    sizes: Sizes | None

    @classmethod
    def of(cls, text: str) -> Sought:
        return cls.of_words(words_of(normal_text(text)))

    @classmethod
    def of_words(cls, words: Sequence[str]) -> Sought:
        """Make the searched text from the words of a normal text."""
        sought = sought_words(words)
        sizes = None if sought is words else np.array([_size(word) for word in sought])
        return cls(word_hashes(sought), sizes)

    @property
    def size(self) -> int:
        return WORD * len(self.hashes) if self.sizes is None else int(self.sizes.sum())

    def runs(self, size: int) -> Iterator[tuple[int, NDArray[np.intp], Hashes]]:
        """Yield from each word on the shortest run of at least this size: (their length, where they begin,
        their hashes).
        """
        if self.sizes is None:
            runs = runs_of(self.hashes, size // WORD)
            yield size // WORD, np.arange(len(runs)), runs
            return
        before = np.concatenate([[0], self.sizes.cumsum()])
        ends = np.searchsorted(before, before[:-1] + size)
        lengths = (ends - np.arange(len(ends)))[ends < len(before)]
        for length in np.unique(lengths).tolist():
            starts = np.flatnonzero(lengths == length)
            yield length, starts, runs_of(self.hashes, length)[starts]


class Run(NamedTuple):
    """Names a run of words by its length and hash. `short`: it is a whole question of 3 to 7 words."""

    length: int
    hash: int
    short: bool


def _size(word: str) -> int:
    return WORD // 2 if _HALF.match(word) else WORD // 3 if _THIRD.match(word) else WORD


class EvaluationGrams:
    """Finds the runs of words of the evaluation's questions and answers: 14 to 16 bytes each.

    A question or an answer of at least n words overlaps by any n of them in a row; a shorter one, of at least
    8, by all of them. A question of 3 to 7 words overlaps where one of its answers stands beside it: alone it
    would be found by chance. A shorter one cannot be told from ordinary speech, and is counted as `ignored`.
    How many words the letters of a script without spaces are is said at the top.
    """

    def __init__(self, items: Iterable[EvaluationItem], n: int) -> None:
        """Collect the runs of all items; `items` is read once; `n` is in words."""
        least, alone = WORD * n, WORD * min(n, LEAST_ALONE)
        self.ignored = 0
        self._tasks: dict[str, int] = {}
        runs = _Collected()
        short: dict[int, dict[int, ShortQuestion]] = {}
        for item in items:
            task = self._tasks.setdefault(item.task, len(self._tasks))
            answers, questions = map(Sought.of, item.answers), [Sought.of(text) for text in item.questions]
            said = [text for text in answers if len(text.hashes)]
            for text in (*questions, *said):
                if text.size >= alone:
                    for length, _, hashes in text.runs(min(least, text.size)):
                        runs.add(length, hashes, task)
            pairs = [text for text in questions if said and WORD * LEAST_WITH_ANSWER <= text.size < alone]
            for words, _ in pairs:
                whole = int(runs_of(words, len(words))[0])
                given = short.setdefault(len(words), {}).setdefault(whole, ShortQuestion(task))
                for answer in said:
                    given.add(answer.hashes)
            self.ignored += not pairs and all(text.size < alone for text in questions)
        self._long = runs.sets()
        self._short = short
        starts = {size: np.fromiter(found, np.uint64, len(found)) for size, found in short.items()}
        self._starts = {size: GramSet(np.unique(hashes)) for size, hashes in starts.items()}
        self._lengths = sorted({*self._long, *self._short})
        self._names = list(self._tasks)

    def __len__(self) -> int:
        return sum(len(grams.hashes) for grams in (*self._long.values(), *self._starts.values()))

    def overlap(self, words: Sequence[str]) -> str | None:
        """Return the task whose question or answer stands in a text of these normal words; None: of none."""
        words = sought_words(words)
        if not self._lengths or len(words) < self._lengths[0]:
            return None
        hashes = word_hashes(words)
        places = Places(hashes)
        for length, runs in self._runs_by_length(hashes):
            task = self._of_length(length, runs, places)
            if task is not None:
                return self._names[task]
        return None

    def overlaps(self, texts: Sequence[Sequence[str]]) -> list[str | None]:
        """Return `overlap` of each text. They are looked through together, which is several times as fast."""
        texts = [sought_words(words) for words in texts]
        found: list[str | None] = [None] * len(texts)
        for number in self._suspects(texts):
            found[number] = self.overlap(texts[number])
        return found

    def _suspects(self, texts: Sequence[Sequence[str]]) -> list[int]:
        """Return the numbers of texts that hold a run of words that is searched."""
        hashes = word_hashes([word for words in texts for word in words])
        ends = np.cumsum([len(words) for words in texts])
        found = set[int]()
        for length, runs in self._runs_by_length(hashes):
            for grams in (self._long.get(length), self._starts.get(length)):
                if grams is not None:
                    starts = grams.positions(runs)
                    text = np.searchsorted(ends, starts, side="right")
                    found.update(text[starts + length <= ends[text]].tolist())
        return sorted(found)

    def _runs_by_length(self, hashes: Hashes) -> Iterator[tuple[int, Hashes]]:
        """Yield each length that is searched, with the hash of the run at each place; shortest first, none
        longer than the text.
        """
        runs, at = hashes, 1
        for length in self._lengths:
            if length > len(hashes):
                return
            for size in range(at + 1, length + 1):
                runs = runs[:-1] * MULTIPLIER + hashes[size - 1 :]
            at = length
            yield length, runs

    def runs_in(self, words: Sequence[str]) -> Iterator[Run]:
        """Yield every run by which a question or an answer stands in a text of these normal words."""
        hashes = word_hashes(sought_words(words))
        places = Places(hashes)
        for length, runs in self._runs_by_length(hashes):
            if length in self._long:
                found = runs[self._long[length].positions(runs)]
                yield from (Run(length, run, short=False) for run in np.unique(found).tolist())
            yield from (Run(length, run, short=True) for run, _ in self._short_in(length, runs, places))

    def _of_length(self, length: int, runs: Hashes, places: Places) -> int | None:
        if length in self._long:
            found = self._long[length].find(runs)
            if len(found):
                return int(self._long[length].tasks[found[0]])
        return next((question.task for _, question in self._short_in(length, runs, places)), None)

    def _short_in(self, length: int, runs: Hashes, places: Places) -> Iterator[tuple[int, ShortQuestion]]:
        """Yield the short questions of this length that stand beside one of their answers, by their run."""
        if length not in self._short:
            return
        starts = self._starts[length].positions(runs)
        around: dict[int, tuple[int, int]] = {}
        for start, run in zip(starts.tolist(), runs[starts].tolist(), strict=True):
            question = self._short[length][run]
            if run not in around:
                around[run] = places.around(question.answers)
            first_end, last_start = around[run]
            if first_end <= start or start + length <= last_start:
                yield run, question


class ShortQuestion:
    """Is a question that counts where an answer stands beside it. `answers`: their hashes, by their
    length.
    """

    def __init__(self, task: int) -> None:
        self.task = task
        self._answers: dict[int, set[int]] = {}

    def add(self, answer: Hashes) -> None:
        self._answers.setdefault(len(answer), set()).update(runs_of(answer, len(answer)).tolist())

    @cached_property
    def answers(self) -> dict[int, Hashes]:
        return {size: np.fromiter(found, np.uint64, len(found)) for size, found in self._answers.items()}


class Places:
    """Finds where answers stand in one text, which is hashed once for each length of an answer."""

    def __init__(self, words: Hashes) -> None:
        self._words = words
        self._sorted: dict[int, tuple[Hashes, NDArray[np.intp]]] = {}

    def around(self, answers: Mapping[int, Hashes]) -> tuple[int, int]:
        """Return where the first of these answers ends, and where the last begins; where there is none,
        beyond the text's end and before its beginning.
        """
        first_end, last_start = len(self._words) + 1, -1
        for length, hashes in answers.items():
            runs, places = self._of_length(length)
            first, after = np.searchsorted(runs, hashes), np.searchsorted(runs, hashes, side="right")
            held = first < after
            if held.any():
                first_end = min(first_end, int(places[first[held]].min()) + length)
                last_start = max(last_start, int(places[after[held] - 1].max()))
        return first_end, last_start

    def _of_length(self, length: int) -> tuple[Hashes, NDArray[np.intp]]:
        """Return the runs sorted, with the place of each in the text; equal ones in their order there."""
        if length not in self._sorted:
            runs = runs_of(self._words, length)
            places = np.argsort(runs, kind="stable")
            self._sorted[length] = runs[places], places
        return self._sorted[length]


def word_hashes(words: Sequence[str]) -> Hashes:
    if len(_known) > MOST_KNOWN:
        _known.clear()
    return np.fromiter(map(_known.__getitem__, words), np.uint64, len(words))


class _WordHashes(dict[str, int]):
    """Caches the hash of each word met; a dictionary, since words are asked for by the million."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
        self[word] = int.from_bytes(digest, "big")
        return self[word]


_known = _WordHashes()


def runs_of(words: Hashes, length: int) -> Hashes:
    """Return the hash of every run of `length` words: a polynomial in a fixed odd number, modulo 2**64."""
    count = max(0, len(words) - length + 1)
    hashes = np.zeros(count, np.uint64)
    for offset in range(length):
        hashes = hashes * MULTIPLIER + words[offset : offset + count]
    return hashes


class _Collected:
    """Runs by their length, each with the first task that has it; merged now and then, to stay small."""

    def __init__(self) -> None:
        self._found: dict[int, list[tuple[Hashes, NDArray[np.uint32]]]] = {}
        self._waiting = 0

    def add(self, length: int, runs: Hashes, task: int) -> None:
        self._found.setdefault(length, []).append((runs, np.full(len(runs), task, np.uint32)))
        self._waiting += len(runs)
        if self._waiting > 1_000_000:
            self._found = {size: [_union(parts)] for size, parts in self._found.items()}
            self._waiting = 0

    def sets(self) -> Mapping[int, GramSet]:
        return {size: GramSet(*_union(parts)) for size, parts in sorted(self._found.items())}


def _union(parts: list[tuple[Hashes, NDArray[np.uint32]]]) -> tuple[Hashes, NDArray[np.uint32]]:
    hashes, first = np.unique(np.concatenate([runs for runs, _ in parts]), return_index=True)
    return hashes, np.concatenate([tasks for _, tasks in parts])[first]


class GramSet:
    """Holds sorted hashes behind a bitmap of at least 16 bits a hash: most of what is not in it costs one
    look.

    `tasks`: the number of the task that each is of.
    """

    def __init__(self, hashes: Hashes, tasks: NDArray[np.uint32] | None = None) -> None:
        self.hashes = hashes
        self.tasks = np.zeros(len(hashes), np.uint32) if tasks is None else tasks
        size = 1 << max(10, (2 * len(hashes)).bit_length())  # bytes
        self._mask = np.uint64(size - 1)
        self._bits = np.zeros(size, np.uint8)
        np.bitwise_or.at(self._bits, *self._places(hashes))

    def find(self, hashes: Hashes) -> NDArray[np.intp]:
        """Return the indices into `self.hashes` of those in this set."""
        return np.searchsorted(self.hashes, hashes[self.positions(hashes)])

    def positions(self, hashes: Hashes) -> NDArray[np.intp]:
        """Return the indices into `hashes` of those in this set."""
        byte, bit = self._places(hashes)
        likely = np.flatnonzero(self._bits[byte] & bit)
        at = np.searchsorted(self.hashes, hashes[likely])
        at[at == len(self.hashes)] = 0
        return likely[self.hashes[at] == hashes[likely]] if len(likely) else likely

    def _places(self, hashes: Hashes) -> tuple[Any, Any]:
        bit = np.left_shift(np.uint8(1), (hashes & np.uint64(7)).astype(np.uint8))
        return (hashes >> np.uint64(3)) & self._mask, bit
