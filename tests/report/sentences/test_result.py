"""What came of a training is said in one line, true in each case; what to do next is one decision."""

from __future__ import annotations

from typing import Any

import pytest

from ft_dagster.lineage.serving import Finding
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.lineage.version_status import VersionStatus
from ft_dagster.report.sentences.next_step import SERVED, Result, next_of_state, next_step
from ft_dagster.report.sentences.result import result_sentence
from ft_dagster.report.states import VariantStatus
from tests.verdicts import stored_rule

TASK = stored_rule(task="test_split_task", metric="exact_match", base=0.0, tuned=0.675)
LOSS = stored_rule(
    task="test_split_task", metric="completion_loss", base=3.75, tuned=2.9, higher_is_better=False
)
OPEN = {"outcome": "undecided", "seen": 0.25, "needed": 66}
QUIZ = stored_rule(rule="general_benchmark", task="quiz", margin=0.15, base=0.5, tuned=0.45, **OPEN)
HELD = stored_rule(rule="general_benchmark", task="quiz", margin=0.15, base=0.5, tuned=0.52)
FELL = {**QUIZ, "outcome": "fail", "passed": False}
TEXT = stored_rule(
    rule="general_loss", task="general_holdout", metric="general_loss", base=3.3, tuned=3.31, margin=0.2,
    seen=0.137, questions=104, higher_is_better=False,
)  # fmt: skip
GAINED = "Exact match 0.0% → 67.5% on 40 questions"
QUIZ_SAID = "General ability: 40 questions can only detect drops of 25.0 points or more"
HELD_SAID = "General ability held: 40 questions rule out drops of 15.0 points"
IN_PRODUCTION = VersionStatus(1, 1, 1, was_served=True)


def result(*rules: dict[str, Any], status: VersionStatus | None = None, **more: Any) -> Result:
    """Of a verdict as the gate derives it from its rules."""
    outcomes = {rule["outcome"] for rule in rules}
    outcome = next((each for each in ("fail", "undecided") if each in outcomes), "pass")
    passed = all(rule["passed"] for rule in rules)
    verdict = Verdict.from_json({"passed": passed, "outcome": outcome, "rules": list(rules)})
    return Result("acme.coder", verdict, status=status, **more)


@pytest.mark.parametrize(
    ("said", "of"),
    [
        (f"{GAINED}. Released as version 1. {HELD_SAID}", result(TASK, HELD, status=IN_PRODUCTION)),
        (
            f"{GAINED}. Released as version 1 with warnings. {QUIZ_SAID}",
            result(TASK, QUIZ, status=IN_PRODUCTION),
        ),
        (f"{GAINED}. Refused. General ability fell: accuracy of quiz 50.0% → 45.0%", result(TASK, FELL)),
        (
            f"{GAINED}. Undecided, not released. {QUIZ_SAID}",
            result(TASK, {**QUIZ, "passed": False}),
        ),
        (f"{GAINED}. Passed, not released. {HELD_SAID}", result(TASK, HELD)),
        (
            f"{GAINED}. Version 2 waits for approval by ann or ben. {HELD_SAID}",
            result(TASK, HELD, status=VersionStatus(2, 1, 2), approvers=("ann", "ben")),
        ),
        (
            f"{GAINED}. Version 1 was rolled back. {HELD_SAID}",
            result(TASK, HELD, status=VersionStatus(1, None, 1, was_served=True, rolled_back="worse")),
        ),
        (
            f"{GAINED}. Released as version 1; version 3 is in production. {HELD_SAID}",
            result(TASK, HELD, status=VersionStatus(1, 3, 3, was_served=True)),
        ),
        (
            "Loss of the expected answers 3.75 → 2.90 on 40 questions. Passed, not released. "
            "General ability held: 104 texts rule out rises of 0.200 nats a token",
            result(LOSS, TEXT),
        ),
        (f"No task of its own was judged. Passed, not released. {HELD_SAID}", result(HELD, TEXT)),
        (f"{GAINED}. Passed, not released. General ability was not measured", result(TASK)),
        ("Not judged yet", Result("acme.coder", None)),
    ],
    ids=[
        "released", "warnings", "refused", "undecided", "passed alone", "waiting", "rolled back",
        "superseded", "loss only", "no task", "no general task", "not judged",
    ],
)  # fmt: skip
def test_what_came_of_a_training_is_said_in_one_line(said: str, of: Result) -> None:
    assert result_sentence(of) == said


def test_general_ability_is_said_by_the_rule_that_is_worst() -> None:
    fallen_text = {**TEXT, "outcome": "fail", "passed": False}
    assert result_sentence(result(TASK, HELD, fallen_text)).endswith(
        "General ability fell: general loss of general_holdout 3.30 → 3.31"
    )
    other = {**HELD, "task": "other", "margin": 0.3}
    assert result_sentence(result(TASK, HELD, other)).endswith("rule out drops of 30.0 points")
    blind = {**QUIZ, "seen": None}
    assert result_sentence(result(TASK, blind)).endswith("40 questions cannot detect any drop")


def test_questions_in_groups_are_counted_as_questions_not_as_their_groups() -> None:
    grouped = {**QUIZ, "questions": 40, "units": 12}
    assert result_sentence(result(TASK, grouped)).endswith(
        "40 questions in 12 groups can only detect drops of 25.0 points or more"
    )


def test_a_version_that_nobody_approved_is_not_said_to_be_released() -> None:
    for production, more in ((None, ""), (3, "; version 3 is in production")):
        said = result_sentence(result(TASK, HELD, status=VersionStatus(1, production, 3)))
        assert f". Version 1 was not approved{more}. " in said
        assert "released" not in said.lower()


def test_who_may_approve_is_not_said_to_be_anyone_where_it_is_not_known() -> None:
    waits = result(TASK, HELD, status=VersionStatus(2, 1, 2))
    assert "Version 2 waits for approval. " in result_sentence(waits)
    assert next_step(waits).startswith("Version 2 waits for approval: ")
    anyone = result(TASK, HELD, status=VersionStatus(2, 1, 2), approvers=())
    assert "Version 2 waits for approval by anyone. " in result_sentence(anyone)
    assert next_step(anyone).startswith("Version 2 waits for anyone: ")


def test_a_version_in_production_that_todays_gates_refuse_is_not_nothing_to_do() -> None:
    said = next_step(result(TASK, FELL, status=IN_PRODUCTION))
    production = "Version 1 is in production, and today's gates do not pass it"
    mend = "Change data or settings (more general text, a lower rate), then `ft-dagster run acme.coder`"
    assert said == f"{production}. {mend}"


def test_a_task_that_was_not_learned_is_not_sent_to_general_text() -> None:
    worse = {**TASK, "outcome": "fail", "passed": False}
    said = next_step(result(worse, HELD))
    assert (
        said
        == "Change data or settings (more or better rows, other settings), then `ft-dagster run acme.coder`"
    )
    assert "(more general text, a lower rate)" in next_step(result(worse, FELL))


def test_next_sends_nobody_to_the_page_that_says_it() -> None:
    states: tuple[VariantStatus, ...] = ("failing", "stale", "never trained", "not judged")
    refused = next_step(result(TASK, FELL))
    said = [refused, *(next_of_state("acme.coder", state, refused, refused=True) for state in states)]
    assert not [each for each in said if "ft-dagster compare" in each or "ft-dagster status" in each]


def test_a_verdict_that_fails_today_is_not_said_to_have_released_it_silently() -> None:
    said = result_sentence(result(TASK, FELL, status=IN_PRODUCTION))
    assert "Released as version 1, which today's gates do not pass. " in said


def test_what_waits_names_who_approves_why_and_the_command() -> None:
    back = Finding("parent", "acme.base@1 x", "its parent was rolled back", "Train it again")
    waits = result(TASK, HELD, status=VersionStatus(2, 1, 2), approvers=("ann",), unserved=[back])
    assert next_step(waits) == (
        "Version 2 waits for ann (its parent was rolled back): "
        "`ft-dagster release acme.coder --version 2 --force --reason ...` approves it"
    )


@pytest.mark.parametrize(
    ("status", "begins", "names"),
    [
        (IN_PRODUCTION, SERVED, "catalogue"),
        (
            VersionStatus(1, 2, 2, was_served=True),
            "Nothing to do; version 2 is in production",
            "release acme.coder --version 1`",
        ),
        (
            VersionStatus(2, 1, 2, was_served=True, rolled_back="worse"),
            "Version 2 was rolled back (worse)",
            "--version 2 --force",
        ),
        (None, "Its run releases it", "`ft-dagster run acme.coder`"),
    ],
)
def test_what_passed_says_what_is_left_by_the_release_log(
    status: VersionStatus | None, begins: str, names: str
) -> None:
    said = next_step(result(TASK, HELD, status=status))
    assert said.startswith(begins)
    assert names in said


def test_a_state_says_what_its_newest_result_does_or_what_a_run_does() -> None:
    asked = next_step(result(TASK, {**QUIZ, "passed": False}, limit=40))
    assert asked.startswith("Ask about 95 questions")
    assert next_of_state("acme.coder", "failing", asked, refused=True) == asked
    assert next_of_state("acme.coder", "approval", "Version 2 waits") == "Version 2 waits"
    assert "Mend the cause that is named" in next_of_state("acme.coder", "failing", SERVED)
    fell = "release_evaluation: check regression failed: fails 1 of 2 checks"
    said = next_of_state("acme.coder", "failing", "", failure=fell)
    assert said.startswith(
        "A fall against the version in production, or since the reference, is not ruled out"
    )
    assert "gates.regression_margin" in said
    states: tuple[VariantStatus, ...] = ("stale", "never trained", "not judged")
    for state in states:
        assert "`ft-dagster run acme.coder`" in next_of_state("acme.coder", state, SERVED), state
