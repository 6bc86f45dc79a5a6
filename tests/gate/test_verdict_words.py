"""One word and one sentence of each outcome."""

from __future__ import annotations

from typing import Any

import pytest

from ft_dagster.gate.sentences import would_decide
from ft_dagster.gate.verdict_words import (
    WORDS,
    slowest_rule,
    verdict_sentence,
    verdict_word,
    versions_sentence,
)
from ft_dagster.lineage.verdict import Verdict
from tests.verdicts import stored_rule

HOLDS = stored_rule()
UNPROVED = stored_rule(task="quiz", base=0.5, tuned=0.45, outcome="undecided", passed=False, needed=1433)
LET_PASS = {**UNPROVED, "passed": True}
FAILS = stored_rule(task="quiz", base=0.5, tuned=0.2, outcome="fail", passed=False)
AGAINST = stored_rule(rule="regression", task="exam")


def verdict(*rules: dict[str, Any]) -> Verdict:
    found = {rule["outcome"] for rule in rules}
    outcome = next((each for each in ("fail", "undecided") if each in found), "pass")
    passed = all(rule["passed"] for rule in rules)
    return Verdict.from_json({"passed": passed, "outcome": outcome, "rules": list(rules)})


@pytest.mark.parametrize(
    ("rules", "word", "sentence"),
    [
        ((HOLDS, HOLDS), "passed", "Passed: all 2 rules of the gate hold"),
        ((HOLDS,), "passed", "Passed: the one rule of the gate holds"),
        (
            (HOLDS, LET_PASS),
            "passed with warnings",
            "Passed with warnings: 1 of 2 rules is not proved (quiz acc 50.0% → 45.0%); what was measured is "
            "within the margins, which gates.undecided lets pass",
        ),
        (
            (HOLDS, UNPROVED),
            "undecided",
            "Undecided: 1 of 2 rules is neither shown to hold nor to fail (quiz acc 50.0% → 45.0%); "
            "about 1,433 questions would decide",
        ),
        (
            (HOLDS, {**UNPROVED, "blocked": "no question was asked"}),
            "undecided",
            "Undecided: 1 of 2 rules is neither shown to hold nor to fail (quiz acc 50.0% → 45.0%); "
            "no question was asked",
        ),
        (
            (HOLDS, FAILS, UNPROVED),
            "failed",
            "Failed: 1 of 3 rules does not hold (quiz acc 50.0% → 20.0%); 1 more undecided",
        ),
    ],
)
def test_each_outcome_has_one_word_and_one_sentence(
    rules: tuple[dict[str, Any], ...], word: str, sentence: str
) -> None:
    found = verdict(*rules)
    assert (verdict_word(found), verdict_sentence(found)) == (word, sentence)
    assert word in WORDS


def test_production_is_said_apart_so_that_a_release_repeats_its_evaluations_sentence() -> None:
    judged = verdict(HOLDS)
    released = verdict(HOLDS, AGAINST)
    assert verdict_sentence(released) == verdict_sentence(judged)
    assert versions_sentence(judged) is None
    assert versions_sentence(released) == "Against production: Passed: the one rule of the gate holds"


def test_a_sentence_names_three_rules_and_counts_the_others() -> None:
    assert "2 more)" in verdict_sentence(verdict(*[FAILS] * 5))


def test_the_questions_that_would_decide_are_those_of_the_slowest_rule() -> None:
    found = verdict({**UNPROVED, "needed": 99}, UNPROVED)
    assert slowest_rule(found.rules) == found.rules[1]
    assert slowest_rule(verdict(HOLDS, FAILS).rules) is None


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"needed": 100_000}, "about 100,000 questions would decide"),
        ({"needed": 73_772_503}, "no number of questions that could be had would decide"),
        ({"rule": "degeneration", "needed": 33}, "no number of questions that could be had would decide"),
        ({"rule": "general_loss", "needed": 2000}, "about 2,000 texts would decide"),
        ({"rule": "general_loss", "needed": 2001}, "no number of texts that could be had would decide"),
        (
            {"rule": "general_loss", "needed": 800, "questions": 200, "units": 20},
            "about 80 texts would decide",
        ),
    ],
)
def test_no_more_questions_are_asked_for_than_can_be_had(rule: dict[str, Any], said: str) -> None:
    """32 prompts are asked for degeneration, and a mixture keeps 200 texts: of each document one first."""
    found = verdict({**UNPROVED, "needed": 20}, {**UNPROVED, **rule})
    assert would_decide(found.rules[1]) == said
    assert verdict_sentence(found).endswith(f"; {said}")
