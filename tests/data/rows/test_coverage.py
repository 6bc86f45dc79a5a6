"""Rows with most of a question are found though a word was put in; rows that share its phrases are not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from ft_dagster.data.rows import coverage
from ft_dagster.data.rows.content import normal_text, words_of
from ft_dagster.data.rows.coverage import CoveredGrams, evaluation_grams
from ft_dagster.data.rows.decontaminate import EvaluationGrams, EvaluationItem
from ft_dagster.spec.data import DecontaminateSpec

SHARE = 0.6
LONG = "Which part of a plant cell changes the energy of sunlight into food that the cell can use later?"
MIDDLE = "Which of the following is the most likely cause of earthquakes?"
SHORT = "What gas do plants breathe in?"
CHINESE = "植物细胞的哪一部分把阳光的能量变成细胞以后可以使用的食物"
ITEMS = [
    EvaluationItem((LONG,), ("chloroplast",), "cells"),
    EvaluationItem((MIDDLE,), ("moving plates",), "earth"),
    EvaluationItem((SHORT,), ("carbon dioxide",), "gas"),
    EvaluationItem((CHINESE,), ("叶绿体",), "chinese"),
]


def words(text: str) -> list[str]:
    return words_of(normal_text(text))


def put_in(text: str, place: int, word: str = "really") -> list[str]:
    """The words of a text with one more."""
    its = words(text)
    return [*its[:place], word, *its[place:]]


@pytest.fixture
def grams() -> CoveredGrams:
    return CoveredGrams(ITEMS, 13, SHARE)


@pytest.mark.parametrize(("text", "answer", "task"), [
    (LONG, "chloroplast", "cells"), (MIDDLE, "moving plates", "earth"), (SHORT, "carbon dioxide", "gas"),
])  # fmt: skip
def test_a_question_is_found_wherever_one_word_was_put_in(
    grams: CoveredGrams, text: str, answer: str, task: str
) -> None:
    plain = EvaluationGrams(ITEMS, 13)
    missed = 0
    for place in range(1, len(words(text))):
        row = [*put_in(text, place), *words(answer)]
        missed += plain.overlap(row) is None
        assert grams.overlap(row) == task
        assert grams.overlap([*words("They ask"), *row, *words("and so on") * 40]) == task
    assert missed > 0


def test_a_question_written_without_spaces_is_found_with_a_word_put_in(grams: CoveredGrams) -> None:
    for place in range(2, len(CHINESE) - 2, 3):
        row = words(f"{CHINESE[:place]}真的{CHINESE[place:]}叶绿体")
        assert grams.overlap(row) == "chinese"
    assert grams.overlap(words("植物细胞可以使用的食物很多，阳光的能量也很多")) is None


@pytest.mark.parametrize(
    "row",
    [
        "Which of the following is the most likely cause of forest fires? Lightning in a dry summer.",
        "Which part of a plant cell is green? The energy of sunlight is food for it.",
        "What gas do animals breathe out? Carbon dioxide, as plants breathe it in.",
        "What gas do plants really breathe in?",  # a short one without its answer
        "",
        "which",
    ],
)
def test_phrases_of_a_question_are_not_the_question(grams: CoveredGrams, row: str) -> None:
    assert grams.overlap(words(row)) is None


def test_parts_that_stand_far_apart_are_not_the_question(grams: CoveredGrams) -> None:
    its, apart = words(LONG), ["word"] * 30
    together = [*its[:9], "really", *its[9:]]
    assert grams.overlap(together) == "cells"
    assert grams.overlap([*its[:9], *apart, *its[9:]]) is None


def test_texts_together_are_found_as_each_alone(grams: CoveredGrams) -> None:
    rows = [
        put_in(LONG, 5),
        words("nothing of it"),
        put_in(MIDDLE, 4),
        words(f"{CHINESE[:9]}真的{CHINESE[9:]}"),
    ]
    assert grams.overlaps(rows) == [grams.overlap(row) for row in rows] == ["cells", None, "earth", "chinese"]


def plainly(texts: Sequence[Sequence[str]], row: Sequence[str], share: float) -> bool:
    """By looking at every part of the row for every text."""
    for text in texts:
        runs, span = {*zip(text, text[1:], text[2:], strict=False)}, int(np.ceil(coverage.WIDER * len(text)))
        most, whole = max(1, int(np.ceil(share * len(runs) - 1e-9))), set(text)
        least = max(1, int(np.ceil(coverage.OF_WORDS * len(whole) - 1e-9)))
        for start, end in itertools.combinations(range(len(row) + 1), 2):
            part = row[start:end]
            if end - start > span or (
                not {*zip(part, part[1:], part[2:], strict=False)} >= runs
                and len(runs & {*zip(part, part[1:], part[2:], strict=False)}) < most
            ):
                continue
            room = span - (end - start)
            if len(whole & set(row[max(0, start - room) : end + room])) >= least:
                return True
    return False


@pytest.mark.slow
def test_what_is_found_is_what_a_plain_search_finds() -> None:
    random = np.random.default_rng(0)

    def some(length: int) -> list[str]:
        return [f"w{n}" for n in random.integers(0, 12, length)]

    texts = [some(int(random.integers(8, 12))) for _ in range(12)]
    grams = CoveredGrams([EvaluationItem((" ".join(text),)) for text in texts], 50, SHARE)
    found = 0
    for _ in range(300):
        row = some(int(random.integers(5, 24)))
        if random.random() < 0.5:
            text = texts[int(random.integers(len(texts)))]
            place = int(random.integers(len(row)))
            row = [*row[:place], *text[:4], "w99", *text[4:], *row[place:]]
        expected = plainly(texts, row, SHARE)
        assert (grams.overlap(row) is not None) == expected
        found += expected
    assert 50 < found < 290


def test_without_a_declared_share_long_runs_alone_are_looked_for() -> None:
    row = put_in(MIDDLE, 5)
    assert evaluation_grams(ITEMS, DecontaminateSpec()).overlap(row) is None
    assert evaluation_grams(ITEMS, DecontaminateSpec(coverage=SHARE)).overlap(row) == "earth"


def test_nothing_overlaps_where_nothing_is_asked() -> None:
    grams = CoveredGrams([], 13, SHARE)
    assert not grams
    assert grams.overlaps([words(LONG), []]) == [None, None]
