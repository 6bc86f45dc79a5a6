"""Rows that share a run of words with the evaluation sets are found, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from ft_dagster.data.decontaminate import EvaluationGrams

WORDS = [f"word{i}" for i in range(30)]
QUESTION = " ".join(WORDS[:20])


def test_a_row_with_a_run_of_n_words_overlaps() -> None:
    grams = EvaluationGrams([QUESTION], 13)
    assert grams.overlaps("so " + " ".join(WORDS[3:16]) + " indeed")


def test_a_run_of_fewer_words_does_not_overlap() -> None:
    grams = EvaluationGrams([QUESTION], 13)
    assert not grams.overlaps("so " + " ".join(WORDS[3:15]) + " indeed")


def test_case_and_punctuation_do_not_hide_an_overlap() -> None:
    grams = EvaluationGrams([QUESTION], 13)
    assert grams.overlaps(", ".join(WORDS[:13]).upper())


def test_the_same_words_in_another_order_do_not_overlap() -> None:
    grams = EvaluationGrams([QUESTION], 13)
    assert not grams.overlaps(" ".join(reversed(WORDS[:20])))


def test_a_short_evaluation_text_of_8_words_matches_as_a_whole() -> None:
    grams = EvaluationGrams([" ".join(WORDS[:9])], 13)
    assert grams.overlaps("they ask: " + " ".join(WORDS[:9]) + "?")
    assert not grams.overlaps(" ".join(WORDS[:8]))


def test_an_evaluation_text_of_fewer_words_is_ignored() -> None:
    grams = EvaluationGrams([" ".join(WORDS[:7])], 13)
    assert (grams.texts, grams.ignored) == (0, 1)
    assert not grams.overlaps(" ".join(WORDS[:7]))


def test_a_small_n_is_obeyed() -> None:
    grams = EvaluationGrams(["one two three four"], 3)
    assert grams.overlaps("and two three four")
    assert not grams.overlaps("two three five")


def test_no_evaluation_text_means_no_overlap() -> None:
    assert not EvaluationGrams([], 13).overlaps(QUESTION)


@pytest.mark.slow
def test_no_gram_is_lost_when_many_are_merged() -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(map(str, random.integers(0, 5000, 400))) for _ in range(3000)]
    grams = EvaluationGrams(texts, 13)
    assert len(grams) == 3000 * 388
    assert grams.overlaps(" ".join(texts[0].split()[100:113]))
    assert grams.overlaps(" ".join(texts[-1].split()[-13:]))
