"""The rule against the reference: its margins, its level over all releases, and what it never lets pass."""

from __future__ import annotations

from typing import Any

import pytest

import benchmarks.gates_descent as simulated
from ft_dagster.gate.gates import Since, descent, regression
from ft_dagster.gate.judged_by import gates_digest
from ft_dagster.gate.level import ALPHA, level_after_reference
from ft_dagster.gate.power import AfterReference, SinceReference, hopeless_gates, least_questions
from ft_dagster.gate.samples import Role, Sample
from ft_dagster.spec.narrow import shown
from ft_dagster.spec.variant import EvaluationSpec, GatesSpec

GATES = GatesSpec()
FIRST = Since("version 1, the reference (release 1 after it)", 1)
ANCESTOR = Since("acme.base version 1, the reference (release 3 after it)", 3, whole=False)


def answers(right: int, asked: int, role: Role = "task", start: int = 0) -> list[Sample]:
    """So many questions from `start` on, of which the first ones are right."""
    numbers = range(start, start + asked)
    values = [(f"{role}:0:{n:04x}", float(n - start < right)) for n in numbers]
    return [Sample(role, role, "acc", name, value, 1.0, True) for name, value in values]


def test_the_levels_of_all_releases_and_of_the_tries_before_each_add_up_to_alpha() -> None:
    levels = [level_after_reference(ALPHA, k, tries) for k in range(1, 300) for tries in range(1, 300)]
    assert 0.99 * ALPHA < sum(levels) < ALPHA


def test_a_fall_within_the_margin_to_production_is_one_beyond_that_to_the_reference() -> None:
    first, before, now = (answers(right, 745) for right in (600, 545, 520))
    (near,) = regression(before, now, GATES, version=4)
    (far,) = descent(first, now, GATES, FIRST)
    assert (near.outcome, near.margin) == ("pass", 0.05)
    assert (far.rule, far.outcome, far.margin) == ("reference", "fail", 0.1)
    assert far.sentence.startswith(f"against {FIRST.named}, the task task (acc) went from 80.5% to 69.8%")
    assert near.sentence.startswith("against version 4 in production")


def test_what_is_not_declared_is_twice_the_margin_to_production_and_three_times_the_tail() -> None:
    gates = GatesSpec(regression_margin=0.07, loss_tail=0.03)
    assert (gates.after_reference(0.07, loss=False), gates.tail_after_reference) == (0.14, 0.09)
    (rule,) = descent(answers(300, 400), answers(300, 400), gates, FIRST)
    assert (rule.margin, rule.passed) == (0.14, True)
    declared = gates.model_copy(update={"reference_margin": 0.2})
    (rule,) = descent(answers(300, 400), answers(300, 400), declared, FIRST)
    assert rule.margin == 0.2


def test_the_later_a_release_the_smaller_its_level() -> None:
    same, found = answers(300, 400), {}
    for release in (1, 2, 10):
        (rule,) = descent(same, same, GATES, Since("version 1", release), tries=2)
        found[release] = rule.level
    assert found == pytest.approx({k: ALPHA / (k * (k + 1)) / 6 for k in found})


def test_without_a_common_question_nothing_passes_and_it_is_said_what_would_decide() -> None:
    gates = GATES.model_copy(update={"undecided": "measured"})
    gone = Since("version 1", 2, gone="its weights are gone; restore them")
    (rule,) = descent(answers(300, 400), answers(300, 400, start=1000), gates, gone)
    assert (rule.outcome, rule.passed, rule.questions) == ("undecided", False, 0)
    assert rule.sentence.endswith("since no question was asked of both; its weights are gone; restore them")
    assert [rule.outcome for rule in descent([], answers(300, 400), gates, gone)] == ["undecided"]


def test_benchmarks_that_share_nothing_with_the_reference_are_undecided_too() -> None:
    same, quiz = answers(300, 400), answers(300, 400, "general")
    other = answers(300, 400, "general", start=1000)
    rules = descent([*same, *quiz], [*same, *other], GATES, FIRST)
    assert [(rule.outcome, rule.questions) for rule in rules] == [("undecided", 0), ("pass", 400)]
    assert "the benchmarks: undecided" in rules[0].sentence


def test_a_child_is_held_against_its_ancestor_on_what_both_were_asked() -> None:
    """Its own task is another one, which is no fall."""
    quiz, fell = answers(300, 400, "general"), answers(200, 400, "general")
    rules = descent([*answers(300, 400), *quiz], [*answers(0, 400, start=1000), *fell], GATES, ANCESTOR)
    assert [(rule.task, rule.outcome) for rule in rules] == [("general", "fail")]
    copied = descent([*answers(300, 400), *quiz], [*answers(200, 400), *quiz], GATES, ANCESTOR)
    assert {rule.task: rule.outcome for rule in copied} == {"task": "fail", "general": "pass"}


def test_repetition_is_not_held_against_the_reference_since_32_prompts_decide_nothing_at_its_level() -> None:
    rows = [Sample("general_prompts", "general_prompts", "degenerate", f"p:0:{n}", 0.0, 1.0, False)
            for n in range(32)]  # fmt: skip
    same = [*answers(300, 400), *rows]
    assert [rule.task for rule in descent(same, same, GATES, FIRST)] == ["task"]


@pytest.mark.parametrize(
    ("gates", "held"),
    [
        ({}, True),
        ({"reference": None}, False),
        ({"regression_margin": None}, False),
        ({"regression_margin": None, "reference_margin": 0.1}, True),
    ],
)
def test_versions_that_are_not_compared_are_not_held_against_the_reference_unless_that_is_declared(
    gates: dict[str, float | None], held: bool
) -> None:
    spec = GatesSpec.model_validate(gates)
    assert bool(descent(answers(300, 400), answers(300, 400), spec, FIRST)) is held


def test_by_default_no_key_has_anything_of_the_reference() -> None:
    assert not [name for name in shown(GATES) if name.startswith("reference")]
    said = {"reference": "first", "reference_margin": None, "reference_loss_margin": None}
    assert gates_digest(GatesSpec.model_validate(said)) == gates_digest(GATES)
    assert gates_digest(GatesSpec(reference_margin=0.1)) != gates_digest(GATES)
    assert GatesSpec(reference=3, reference_margin=0.3).without_reference == GATES


def test_the_defaults_ask_no_more_rows_than_the_rules_before_for_a_year_of_weekly_releases() -> None:
    """Of 183 rows and 200 texts of a loss, and of 100 scored rows; with the least of 72 for six releases."""
    free, scored = EvaluationSpec(), EvaluationSpec(kind="label")
    rows = {"task": 188, "general_loss": 200}
    assert hopeless_gates(GATES, free, rows, release=SinceReference(AfterReference(52))) == ()
    assert (
        hopeless_gates(
            GATES, scored, {"task": 72, "general_loss": 200}, release=SinceReference(AfterReference(6))
        )
        == ()
    )
    (few,) = hopeless_gates(
        GATES, scored, {"task": 72, "general_loss": 200}, release=SinceReference(AfterReference(7))
    )
    assert (few.rule, few.field, few.of) == ("reference", "gates.reference_margin", "task")
    assert few.least == least_questions(0.1, alpha=level_after_reference(ALPHA, 7))
    assert few.sentence.startswith("no further version passes against the reference whatever is trained")


@pytest.mark.slow
@pytest.mark.parametrize("family", simulated.FAMILIES, ids=lambda family: family.name)
def test_over_ten_generations_a_fall_of_the_margin_is_released_in_at_most_alpha(family: Any) -> None:
    for share in (0.5, 1.0):
        sunk, _ = simulated.descents(family, 745, share, by_reference=True, trials=300)
        assert sunk <= ALPHA


def test_without_the_rule_ten_generations_sink() -> None:
    sunk, fell = simulated.descents(simulated.FAMILIES[0], 745, 0.5, by_reference=False, trials=100)
    assert (sunk > 0.9, fell > 0.15) == (True, True)


def test_a_model_that_lost_nothing_is_blocked_by_the_reference_less_often_than_by_production() -> None:
    for questions in (200, 362, 745):
        production, since = simulated.unchanged(questions, 500)
        assert max(since.values()) <= production
