"""What a plan says of the next look: which try it is, how many are left, what it takes, what to add."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ft_dagster.gate.level import level_of
from ft_dagster.gate.power import (
    AfterReference,
    PairedTest,
    SinceReference,
    hopeless_gates,
    least_questions,
)
from ft_dagster.lineage.reserves import Reserve
from ft_dagster.planning.looks_left import NextLook, look_lines, next_look, short_lines
from ft_dagster.spec import VariantSpec
from tests.present import present

DECLARED: dict[str, Any] = {
    "description": "answers where things are",
    "owners": ["ann@acme.example"],
    "base_model": {"source": "models/tiny"},
    "data": {"sources": [{"path": "rows.jsonl"}], "splits": {"test": 0.1}},
    "evaluation": {"kind": "label", "general": [], "limit": None},
    "gates": {"task_margin": 0.05, "degeneration_margin": None},
}


def spec(**changes: dict[str, Any]) -> VariantSpec:
    parts = {part: {**DECLARED.get(part, {}), **fields} for part, fields in changes.items()}
    return VariantSpec.model_validate({**DECLARED, **parts})


def look(declared: VariantSpec, number: int, rows: int, *, successor: bool = False) -> NextLook:
    return next_look(declared, number, {"task": rows}, successor=successor)


def test_a_first_try_at_five_points_needs_362_questions_and_says_how_many_rows_to_add() -> None:
    found = look(spec(), 1, 55)
    (rule,) = found.rules
    assert (rule.needed, rule.least, rule.there, rule.missing, found.left) == (362, 72, 55, 307, 0)
    said = " ".join(look_lines(found, spec()))
    assert "try 1 since the last release, at a level of 2.5%" in said
    assert "no try is left: 55 questions cannot decide gates.task_margin, which takes 72" in said
    assert "passes as it was measured" not in said
    assert "362 for gates.task_margin, and there are 55" in said
    assert "some 3,070 more rows would give gates.task_margin the 307 test rows" in said


def test_the_short_form_says_how_a_look_comes_back_where_none_is_left() -> None:
    first, rows = short_lines(look(spec(), 1, 55), spec())
    assert "no try is left" in first
    assert rows.startswith("some 3,070 more rows would give gates.task_margin")
    assert len(short_lines(look(spec(), 1, 72), spec())) == 1  # it can decide; how well is what the plan says


@pytest.mark.parametrize("margin", [0.05, 0.2])
def test_of_too_few_questions_it_says_from_which_margin_on_they_are_enough(margin: float) -> None:
    gates = {"degeneration_margin": margin}
    (found,) = [r for r in look(spec(gates=gates), 1, 362).rules if r.rule == "degeneration"]
    enough = present(found.shown)
    said = " ".join(look_lines(look(spec(gates=gates), 1, 362), spec(gates=gates)))
    assert f"for gates.degeneration_margin, and there are 32, enough from {enough:g} on" in said
    at, below = ({"degeneration_margin": wider} for wider in (enough, enough - 0.01))
    for wider, missing in ((at, False), (below, True)):
        (rule,) = [r for r in look(spec(gates=wider), 1, 362).rules if r.rule == "degeneration"]
        assert bool(rule.missing) is missing
    assert "enough from" not in " ".join(look_lines(look(spec(), 1, 362), spec()))


def test_where_what_is_undecided_passes_it_says_so() -> None:
    lenient = spec(gates={"undecided": "measured"})
    (first, *_) = look_lines(look(lenient, 1, 55), lenient)
    assert first.endswith("what is undecided passes as it was measured (gates.undecided)")


@pytest.mark.slow
@pytest.mark.parametrize("rows", [72, 94, 200, 362, 1000])
def test_the_looks_left_are_those_at_which_the_questions_there_are_can_decide(rows: int) -> None:
    found = look(spec(), 1, rows)
    gates, asked, known = spec().gates, spec().evaluation, {"task": rows}

    def can_decide(number: int) -> bool:
        return all(one.rule != "task" for one in hopeless_gates(gates, asked, known, tries=number))

    able = [number for number in range(1, 1001) if can_decide(number)]
    assert found.left == len(able)
    assert look(spec(), 2, rows).left == max(0, len(able) - 1)


def test_a_rule_against_production_counts_from_the_second_version_on() -> None:
    strict = spec(gates={"task_margin": 0.2, "regression_margin": 0.05})
    assert look(strict, 1, 60).left
    assert look(strict, 1, 60, successor=True).left == 0


def after(release: int | None) -> SinceReference:
    return SinceReference(None if release is None else AfterReference(release))


def test_the_reference_of_another_variant_is_of_general_questions_alone_at_the_level_that_has_least() -> None:
    declared = spec(
        evaluation={"general": ["sea_quiz"], "limit": 400},
        gates={"reference_margin": 0.1, "reference_loss_margin": 0.2, "general_margin": 0.2},
    )
    known, beneath = {"task": 400, "general_loss": 200}, AfterReference(4, "the reference of acme.base")

    def of(since: SinceReference) -> dict[str | None, int]:
        rules = next_look(declared, 1, known, successor=False, release=since).rules
        found = [rule for rule in rules if rule.field == "gates.reference_margin"]
        return {rule.of: rule.least for rule in found}

    def least(release: int) -> int:
        return least_questions(0.1, alpha=level_of(level_of(0.05, release)))

    assert of(SinceReference(descent=beneath)) == {"general_benchmark": least(4)}
    both = of(SinceReference(AfterReference(2), beneath))
    assert both["general_benchmark"] == least(4)
    assert both.get("task", least(2)) == least(2)
    few = declared.evaluation.model_copy(update={"limit": least(4) - 1})
    since = SinceReference(descent=beneath)
    refused = [one for one in hopeless_gates(declared.gates, few, known, release=since) if one.of]
    assert [(one.rule, one.of) for one in refused if one.rule == "reference"] == [
        ("reference", "general_benchmark")
    ]
    assert "against the reference of acme.base whatever" in refused[-1].sentence


def test_a_rule_against_the_reference_has_a_smaller_level_from_release_to_release() -> None:
    declared = spec(gates={"task_margin": 0.2, "regression_margin": 0.2, "reference_margin": 0.1})
    known = {"task": 100}

    def found(release: int | None, number: int = 1) -> NextLook:
        return next_look(declared, number, known, successor=True, release=after(release))

    assert [rule.rule for rule in found(None).rules] == ["task", "regression"]
    for release, number in ((1, 1), (6, 1), (6, 3)):
        (rule,) = [rule for rule in found(release, number).rules if rule.rule == "reference"]
        level = level_of(level_of(0.05, release), number)
        assert (rule.field, rule.of, rule.margin) == ("gates.reference_margin", "task", 0.1)
        assert rule.least == least_questions(0.1, alpha=level)
        assert rule.needed == PairedTest(alpha=level).questions_needed(0.1)
        for there in (rule.least - 1, rule.least):
            few = {"task": there}
            gates, since = declared.gates, after(release)
            refused = hopeless_gates(gates, declared.evaluation, few, tries=number, release=since)
            assert ("reference" in {one.rule for one in refused}) is (there < rule.least)
    assert (found(1).left, found(30).left, found(99).left) == (30, 1, 0)
    said = " ".join(look_lines(found(99), declared))
    assert "no try is left: 100 questions cannot decide gates.reference_margin, which takes" in said
    assert "for gates.reference_margin (task), and there are 100" in said
    assert "more rows would give gates.reference_margin" in said


def test_refusals_are_not_compared_with_the_reference_and_keep_nobody_from_training() -> None:
    """120 prompts of each kind cannot show a fall of 1 point: nothing of them is held against a version."""
    narrow = spec(gates={"refusals": {"margin": 0.2, "over_margin": 0.2}, "reference_margin": 0.01})
    known = {"task": 5000, "refusals": 120}
    assert hopeless_gates(narrow.gates, narrow.evaluation, known, release=after(2)) == ()
    found = next_look(narrow, 1, known, successor=True, release=after(2))
    assert {rule.of for rule in found.rules if rule.rule == "reference"} == {"task"}


def test_a_later_try_needs_more_and_the_numbers_are_those_of_the_formula() -> None:
    for number in (1, 2, 5):
        (rule,) = look(spec(), number, 400).rules
        level = level_of(0.05, number)
        assert rule.needed == PairedTest(alpha=level).questions_needed(0.05)
        assert rule.least == least_questions(0.05, alpha=level)


def test_of_a_limit_that_is_too_small_it_says_so_and_asks_for_no_rows() -> None:
    few = spec(evaluation={"limit": 100})
    lines = look_lines(look(few, 1, 5000), few)
    assert "evaluation.limit of 100 is too small: gates.task_margin needs 362" in lines
    assert not any("more rows" in line for line in lines)


def test_of_a_reserve_it_says_the_set_and_what_is_left_and_what_to_do_when_rows_were_asked_before() -> None:
    dealt = spec(evaluation={"reserve": 3})

    def lines(part: int, *, fresh: bool, left: int) -> str:
        reserve = Reserve(3, part, fresh, left)
        found = next_look(dealt, 1, {"task": 100}, successor=False, reserve=reserve)
        return " ".join(look_lines(found, dealt))

    first = lines(1, fresh=True, left=2)
    assert "set 1 of 3 of the test split is asked; 2 more are unused" in first
    assert "in each of 3 sets" in first
    last = lines(3, fresh=True, left=0)
    assert "set 3 of 3 of the test split is asked; it is the last that is unused" in last
    again = lines(1, fresh=False, left=0)
    assert "set 1 of 3 of the test split is asked, rows of which were asked before: fresh are tho" in again
    assert "no other is unused: put new rows in place of the old ones" in again
    assert "asked before" not in first + last


def test_a_reserve_of_a_task_that_is_no_test_split_is_refused() -> None:
    with pytest.raises(ValidationError, match="reserve deals out the test split"):
        spec(evaluation={"reserve": 3, "task": ["arc_easy"]})
