"""One normal form for all that asks whether two texts are the same."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from ft_dagster.data.rows.content import (
    WORD,
    exact_text,
    identity_of,
    is_lost,
    loses,
    normal_text,
    question_ids,
    words_of,
)


@pytest.mark.parametrize(
    "other",
    [
        "what  is the\nﬁne?",
        " WHAT IS THE FINE? ",
        "What is the fi\u200bne?",
        "Wh\x01at \x1fis the f\x1fine?\0",
        "What is the f\x7fi\ufff9n\x9fe?",
        "Wh\u00adat is the fine\ufe0f?",
        "Ｗｈａｔ is the fine?",
    ],
)
def test_what_a_reader_does_not_see_makes_no_other_text(other: str) -> None:
    assert normal_text(other) == normal_text("What is the fine?") == "what is the fine?"


def test_accents_and_punctuation_make_another_text_and_accents_other_words() -> None:
    assert normal_text("résumé") == normal_text("re\u0301sume\u0301") != normal_text("resume")
    assert normal_text("Fine?") != normal_text("Fine!")
    assert words_of(normal_text("Fine?")) == words_of(normal_text("_fine_!")) == ["fine"]


def test_the_form_is_its_own_form() -> None:
    for text in ("Straße ŒUVRE ﬃ ½ ①", "ΑΪ́ΔΗΣ ς", "İstanbul \u3164 x\u2003y"):
        assert normal_text(normal_text(text)) == normal_text(text)


def test_the_identity_of_a_content_is_the_same_on_every_version() -> None:
    """Where this fails, raise NORMALIZATION, and the versions of the stages that read it."""
    found = identity_of("prompt_completion", [("prompt", normal_text("Ärger?")), ("completion", "a")])
    assert found.hex()[:16] == "c6a4e1c91326505c"


def test_equal_contents_are_numbered_and_the_names_do_not_depend_on_the_order() -> None:
    one, two = b"1" * 32, b"2" * 32
    names = question_ids([one, two, one])
    assert len(set(names)) == 3
    assert set(question_ids([two, one, one])) == set(names)


def test_words_of_ascii_are_those_of_all_text() -> None:
    text = "".join(map(chr, range(128))) + " it's a_b 3.5 x-1\n" + "\x7f_tail"
    assert words_of(text) == WORD.findall(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("10⁶", "106"),
        ("1½", "11⁄2"),
        ("1①", "11"),
        ("2⒈", "21."),
        ("x ∈ ℝ", "x ∈ R"),
        ("5㎡", "5m2"),
        ("H₂", "h2"),
    ],
)
def test_the_exact_form_tells_apart_what_the_normal_form_takes_for_the_same(one: str, other: str) -> None:
    assert normal_text(one) == normal_text(other)
    assert loses(one)
    assert exact_text(one) != exact_text(other) == normal_text(other)


@pytest.mark.parametrize(
    "text",
    ["ﬁne", "Ｗｈａｔ", "wait…", "№ 5", "Ⅳ", "℃", "ſ", "µ", "ﻼ", "ｶﾞ", "résumé", "中文", "Straße", "\u00a0x"],
)
def test_what_only_looks_otherwise_is_lost_by_no_form(text: str) -> None:
    assert not loses(text)
    assert exact_text(text) == normal_text(text)


@pytest.mark.parametrize(
    "other", ["Ａ  ﬁNE\n10⁶ ", "a fi\u200bne 10⁶\ufe0f", " a Fine\x0110⁶".replace("\x01", " ")]
)
def test_the_exact_form_is_the_normal_form_in_all_else(other: str) -> None:
    assert exact_text(other) == exact_text("a fine 10⁶") == "a fine 10⁶"


@pytest.mark.slow
def test_the_exact_form_is_its_own_form_with_every_character_that_it_keeps() -> None:
    kept = list(filter(is_lost, map(chr, range(sys.maxunicode + 1))))
    assert len(kept) > 1500
    for character in kept:
        assert normal_text(character) != unicodedata.normalize("NFC", character).casefold()
        for text in (character, f"A{character} \u0301b", f"e\u0301{character}\u0301"):
            assert exact_text(exact_text(text)) == exact_text(text)
            assert exact_text(unicodedata.normalize("NFD", text)) == exact_text(text)


@pytest.mark.slow
def test_no_two_characters_that_the_exact_form_keeps_are_one_but_by_case() -> None:
    kept = set(filter(is_lost, map(chr, range(sys.maxunicode + 1))))
    forms = {character.casefold() for character in kept}
    assert {exact_text(character) for character in kept} == forms
