"""Which questions stand in rows that a model was trained on, each of them named."""

from __future__ import annotations

import random

import pytest

from ft_dagster.data.rows.asked_again import AskedItems, Found, HeldOutTexts
from ft_dagster.data.rows.content import normal_text, words_of
from ft_dagster.data.rows.coverage import evaluation_grams
from ft_dagster.data.rows.decontaminate import EvaluationItem
from ft_dagster.spec.data import DecontaminateSpec

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "ru") for b in ("ba", "da", "ga", "ta", "va", "za")]


def words(text: str) -> list[str]:
    return words_of(normal_text(text))


def written(draw: random.Random, count: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(count))


MOONS = "Which of these planets has the largest number of moons around it today?"
ITEMS = [
    EvaluationItem((MOONS,), ("Saturn",), "a"),
    EvaluationItem((MOONS,), ("Jupiter",), "a"),
    EvaluationItem(("What floats on the sea?",), ("a ship",), "b"),
    EvaluationItem(("What sinks in the sea?",), ("a stone",), "b"),
]  # fmt: skip


@pytest.mark.parametrize("coverage", [None, 0.6])
def test_every_question_that_a_row_has_is_named(coverage: float | None) -> None:
    asked = AskedItems(ITEMS, DecontaminateSpec(coverage=coverage))
    rows = [
        "we were asked which of these planets has the largest number of moons around it today, and why",
        "nothing of it",
        "Q: what floats on the sea? A: a ship",
        "Q: what sinks in the sea? A: a ship",
    ]
    found = list(asked.found_in([words(row) for row in rows]))
    assert found == [Found(0, 0), Found(0, 1), Found(2, 2)]


def test_a_question_with_a_word_put_in_is_found_where_coverage_is_declared() -> None:
    row = [words("which of these nine planets has the largest number of moons around it by today?")]
    assert not list(AskedItems(ITEMS, DecontaminateSpec()).found_in(row))
    found = list(AskedItems(ITEMS, DecontaminateSpec(coverage=0.6)).found_in(row))
    assert found == [Found(0, 0), Found(0, 1)]


@pytest.mark.slow
def test_a_row_has_a_question_exactly_where_decontamination_would_leave_it_out() -> None:
    """Over random questions and rows, some with a question in them, by both rules."""
    draw = random.Random(5)
    items = [
        EvaluationItem((written(draw, draw.randint(2, 30)),), (written(draw, draw.randint(1, 12)),), "t")
        for _ in range(60)
    ]
    rows = []
    for number in range(300):
        said = written(draw, 40)
        if number % 3:
            item = draw.choice(items)
            said = f"{said} {item.questions[0]} {item.answers[0] if number % 2 else ''} {written(draw, 5)}"
        rows.append(words(said))
    for spec in (DecontaminateSpec(), DecontaminateSpec(coverage=0.6), DecontaminateSpec(ngram=5)):
        left_out = [task is not None for task in evaluation_grams(items, spec).overlaps(rows)]
        found = list(AskedItems(items, spec).found_in(rows))
        assert left_out == [any(each.row == row for each in found) for row in range(len(rows))]
        assert any(left_out)
        for row, question in found[::7]:
            assert evaluation_grams([items[question]], spec).overlap(rows[row]) == "t"


def test_a_held_out_text_is_found_with_a_word_changed_and_inside_a_longer_row() -> None:
    draw = random.Random(3)
    texts = [written(draw, 20) for _ in range(30)]
    changed = texts[4].split()
    changed[9] = "other"
    rows = [f"{written(draw, 60)} {' '.join(changed)} {written(draw, 60)}", written(draw, 200)]
    found = list(HeldOutTexts(map(words, texts), None).found_in([words(row) for row in rows]))
    assert found == [Found(0, 4)]


def test_a_template_that_texts_share_says_of_none_that_it_was_trained_on() -> None:
    draw = random.Random(4)
    template = written(draw, 50)
    texts = [f"{template} {written(draw, 6)}" for _ in range(20)]
    asked = HeldOutTexts(map(words, texts), None)
    others = [words(f"{template} {written(draw, 6)}") for _ in range(50)]
    assert not list(asked.found_in(others))
    assert list(asked.found_in([words(texts[7])])) == [Found(0, 7)]


def test_a_text_of_fewer_than_eight_words_is_found_by_nothing_here() -> None:
    assert not list(HeldOutTexts([words("where is the bank")], None).found_in([words("where is the bank")]))


def test_a_text_without_spaces_between_words_is_found() -> None:
    text = "この質問は昨日の会議で誰が最初に話したかについて尋ねています"
    rows = [words(f"はい。{text}。ありがとう"), words("今日はとても良い天気ですね")]
    assert list(HeldOutTexts([words(text)], None).found_in(rows)) == [Found(0, 0)]
