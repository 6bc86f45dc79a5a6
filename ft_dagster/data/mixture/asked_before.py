"""Looks for held-out questions in what the releases beneath a base were trained on.

The rows that are still there are read once, streamed. Of rows that are gone, records of the same identity are
found by what the mixture's record tree binds; what is nearly the same, and questions of benchmarks, are not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ft_dagster.data.files.parquet import dicts_of, quoted, rows_of
from ft_dagster.data.mixture.mixture_figures import GENERAL
from ft_dagster.data.rows.content import normal_text, question_ids, words_of
from ft_dagster.data.rows.dataset_io import read_split
from ft_dagster.data.rows.rows import Row, in_batches
from ft_dagster.spec.data import DataSpec

if TYPE_CHECKING:
    from ft_dagster.data.rows.decontaminate import EvaluationItem

WHOLE, EXACT, NOT = "whole", "exact", "not"  # how a part of what was trained on was looked through
SAME, NEAR, OVERLAPS = "same", "near", "overlaps"  # how a row has a question
OWN, TEXTS, TASKS = "own", "general", "tasks"  # kinds of questions
ROWS, GENERAL_TEXT = "rows", "general"  # parts of what a model was trained on
EVERY = 100_000  # rows between two lines of progress
EXAMPLE = """source || ':' || "row"::VARCHAR"""  # in SQL, what a ledger calls a record


class HeldOut(NamedTuple):
    """Is a held-out row or text. `turn`: what decides its split; `words`: of what is asked; `identities`: by
    which a record tree may know it; `id`: the question's.
    """

    id: str
    turn: str
    words: Sequence[str]
    identities: tuple[bytes, ...]


@dataclass(frozen=True)
class Questions:
    """Holds what is asked: the variant's own test rows, held-out general texts, and questions of benchmarks,
    each by its number there.
    """

    held_out: Mapping[str, Sequence[HeldOut]]
    items: Sequence[EvaluationItem]

    @classmethod
    def read(cls, test: Path | None, texts: Path | None, tasks: Path | None) -> Questions:
        from ft_dagster.data.rows.decontaminate import read_items

        own = [] if test is None else list(read_split(test))
        general = [] if texts is None else list(dicts_of(texts))
        pieces = [Row("text", "", text=each["text"]) for each in general]
        documents = [(each["group"],) if each.get("group") else () for each in general]
        return cls(
            {
                OWN: _held_out(own, [row.identities for row in own]),
                TEXTS: _held_out(pieces, [tuple(map(bytes.fromhex, names)) for names in documents]),
            },
            [] if tasks is None else list(read_items(tasks)),
        )


def _held_out(rows: Sequence[Row], identities: Sequence[tuple[bytes, ...]]) -> list[HeldOut]:
    ids = question_ids([row.likeness for row in rows])
    asked = (normal_text(row.text) if row.kind == "text" else row.first_turn for row in rows)
    return [
        HeldOut(id_, row.first_turn, words_of(text), known)
        for id_, row, text, known in zip(ids, rows, asked, identities, strict=True)
    ]


class Hit(NamedTuple):
    """Says that a row of an ancestor has a question. `row`: the first, as a ledger calls it; `how`: SAME,
    NEAR or OVERLAPS; `rows`: how many have it.
    """

    row: str
    how: str
    rows: int = 1


@dataclass
class Hits:
    """Gathers the questions that rows have: by kind, by number."""

    found: dict[str, dict[int, Hit]] = field(default_factory=lambda: {OWN: {}, TEXTS: {}, TASKS: {}})

    def add(self, kind: str, question: int, row: str, how: str) -> None:
        self.join(Hits({kind: {question: Hit(row, how)}}))

    def join(self, others: Hits) -> None:
        """Add what others found."""
        for kind, hits in others.found.items():
            for number, hit in hits.items():
                known = self.found[kind].get(number)
                self.found[kind][number] = (
                    hit if known is None else known._replace(rows=known.rows + hit.rows)
                )

    def to_json(self) -> dict[str, object]:
        return {
            kind: {str(number): list(hit) for number, hit in sorted(hits.items())}
            for kind, hits in self.found.items()
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Hits:
        return cls({kind: {int(n): Hit(*hit) for n, hit in hits.items()} for kind, hits in content.items()})


class Searcher:
    """Looks for questions in rows. `decontaminate`, `deduplicate` of the declaration say what is nearly the
    same: nothing where rows are not deduplicated, since case and spacing are then what a task teaches.
    """

    def __init__(self, questions: Questions, data: DataSpec) -> None:
        from ft_dagster.data.rows.asked_again import AskedItems, HeldOutTexts

        self._turns: dict[bytes, list[tuple[str, int]]] = {}
        self._texts: list[list[tuple[str, int]]] = []
        different: dict[tuple[str, ...], int] = {}
        for kind, held_out in questions.held_out.items():
            for number, one in enumerate(held_out):
                self._turns.setdefault(_hashed(one.turn), []).append((kind, number))
                at = different.setdefault(tuple(one.words), len(different))
                self._texts += [[]] if at == len(self._texts) else []
                self._texts[at].append((kind, number))
        declared = data.decontaminate
        near = data.deduplicate.method != "off"
        self._near = HeldOutTexts(different, declared.coverage) if near else None
        self._items = AskedItems(questions.items, declared) if declared.enabled and questions.items else None

    def look_through(self, rows: Iterable[tuple[str, Row]], hits: Hits) -> None:
        """Add what these rows have, each with its name."""
        for batch in in_batches(rows, lambda named: named[1].size):
            words = [[*row.words, *row.other_words] for _, row in batch]
            same = [self._turns.get(_hashed(row.first_turn), []) for _, row in batch]
            for (name, _), questions in zip(batch, same, strict=True):
                for kind, question in questions:
                    hits.add(kind, question, name, SAME)
            for number, text in () if self._near is None else self._near.found_in(words):
                for each in self._texts[text]:
                    if each not in same[number]:
                        hits.add(*each, batch[number][0], NEAR)
            for number, item in () if self._items is None else self._items.found_in(words):
                hits.add(TASKS, item, batch[number][0], OVERLAPS)


def _hashed(turn: str) -> bytes:
    return hashlib.sha256(turn.encode("utf-8", "surrogatepass")).digest()[:16]


def find_records(records: Records, part: str, questions: Questions, hits: Hits) -> None:
    """Add the held-out rows and texts whose record a mixture's rows.parquet has among what was trained on.
    `part`: ROWS or GENERAL_TEXT.
    """
    known: dict[bytes, list[tuple[str, int]]] = {}
    for kind, held_out in questions.held_out.items():
        for number, one in enumerate(held_out):
            for identity in one.identities:
                known.setdefault(records.name(identity), []).append((kind, number))
    for batch in rows_of(records.file, "split", EXAMPLE, "source", records.column):
        for split, name, source, found in batch:
            if _is_trained(split, source, part):
                for kind, question in known.get(bytes.fromhex(found), ()):
                    hits.add(kind, question, name, SAME)


class Records(NamedTuple):
    """Is a mixture's rows.parquet. `column`: by which it knows its records; `name`: makes that of an
    identity.
    """

    file: Path
    column: str
    name: Callable[[bytes], bytes]


class Trained(NamedTuple):
    """Says which rows of a part examples were made of, by number. `source`: what a ledger calls the part."""

    numbers: bytearray
    source: str

    def has(self, number: int) -> bool:
        return number < len(self.numbers) and bool(self.numbers[number])


def trained_rows(records: Path, part: str) -> Trained:
    """Read which rows of a part a mixture has examples of. Memory: a byte a row."""
    numbers, source = bytearray(), GENERAL
    for batch in rows_of(records, "split", "source", quoted("row")):
        for split, named, row in batch:
            if _is_trained(split, named, part):
                if row >= len(numbers):
                    numbers.extend(bytes(row + 1))
                numbers[row], source = True, named
    return Trained(numbers, source)


def _is_trained(split: str, source: str, part: str) -> bool:
    return split == "train" and source.startswith(GENERAL) == (part == GENERAL_TEXT)


def stored_rows(
    files: Sequence[Path], part: str, trained: Trained | None, say: Callable[[str], None]
) -> Iterator[tuple[str, Row]]:
    """Yield the rows that a model was trained on, or texts of its corpus, each with its name; streamed.
    `trained`: None where nothing says which: all of them may be.
    """
    read = 0
    for file in files:
        for number, row in enumerate(_rows_in(file, part)):
            read += 1
            if read % EVERY == 0:
                say(f"{read:,} rows of an ancestor looked through")
            if trained is None or trained.has(number):
                source = row.source if part == ROWS or trained is None else trained.source
                yield f"{source}:{number}", row


def _rows_in(file: Path, part: str) -> Iterator[Row]:
    if part == ROWS:
        yield from read_split(file)
        return
    for one in dicts_of(file, "text"):
        yield Row("text", GENERAL, text=one["text"])
