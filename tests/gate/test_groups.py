"""Groups of unlike size: how they count, and what is shown of the largest where none of it was asked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.gates_groups import POPULATIONS, passes
from ft_dagster.gate.gaffke import lower_bound
from ft_dagster.gate.gates import judge
from ft_dagster.gate.groups import Counting, are_unlike, groups_of
from ft_dagster.gate.judged_by import later_rules, with_largest
from ft_dagster.gate.level import ALPHA
from ft_dagster.gate.paired import Comparison, compare_paired
from ft_dagster.gate.power import least_questions
from ft_dagster.gate.samples import Sample
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.spec.variant import GatesSpec
from tests.evaluation.questions import sample
from tests.present import present

GATES = GatesSpec(task_margin=0.15, regression_margin=None)


def compared(changes: Sequence[float], groups: Sequence[str | None], counting: Counting) -> Comparison:
    return compare_paired(np.array(changes), groups, bound=1.0, level=0.05, counting=counting)


def named(*sizes: int) -> list[str]:
    return [f"group {n}" for n, size in enumerate(sizes) for _ in range(size)]


def ruled(groups: Sequence[str | None], values: Sequence[float], gates: GatesSpec = GATES) -> Rule:
    """The rule of a task on which the base was always right."""

    def asked(side: Sequence[float]) -> list[Sample]:
        made = [
            sample(n, value, question=f"q:{n}:{n:04x}", role="task", task="exam", metric="acc")
            for n, value in enumerate(side)
        ]
        return [one._replace(group=group) for one, group in zip(made, groups, strict=True)]

    return judge(asked([1.0] * len(values)), asked(values), gates).rules[0]


@pytest.mark.parametrize("counting", [Counting(), Counting("group"), Counting("size", 4)])
def test_groups_of_like_size_give_what_they_gave_to_the_digit(counting: Counting) -> None:
    lost = np.zeros(40)
    lost[:2] = -1.0
    found = compared(np.repeat(lost, 4).tolist(), named(*[4] * 40), counting)
    assert found.low == lower_bound(lost, np.full(40, 4.0), -1.0, level=0.05)
    assert (found.improvement, found.weight, found.sizes) == (-0.05, 40.0, None)


def test_by_size_the_added_worst_group_is_as_large_as_the_largest_that_is_known() -> None:
    """Of 30 groups of 1 and 10 none of 10 was drawn: all that are large may fall."""
    asked = compared([0.0] * 30, [None] * 30, Counting())
    known = compared([0.0] * 30, [None] * 30, Counting("size", 10))
    assert asked.low > -0.15
    assert known.low < -0.15
    ratio = 10 * (
        20 ** (1 / 30) - 1
    )  # of margin / (1 - margin), where prod 1 / (1 + ratio / 10) is the level
    assert -known.low == pytest.approx(ratio / (1 + ratio), abs=1e-5)


def test_few_large_groups_that_were_not_asked_let_nothing_pass() -> None:
    """The verdict as the stages derive it, with the largest group of all rows in the gates."""
    known = with_largest(GATES, later_rules(GATES, "instruction", (), 10))
    asked, held = (ruled([None] * 30, [1.0] * 30, gates) for gates in (GATES, known))
    assert (asked.outcome, held.outcome) == ("pass", "undecided")
    assert "by size the largest group counts as 10 questions: even of no change, about" in held.sentence
    assert (
        "with 30 questions in 30 groups, of which the largest counts as 10 questions, this" in held.sentence
    )
    assert ruled([None] * 300, [1.0] * 300, known).outcome == "pass"


def test_by_group_a_large_group_counts_as_a_small_one_in_every_figure() -> None:
    groups, tuned = named(60, *[1] * 39), [0.0] * 60 + [1.0] * 39
    by_size, by_group = (
        ruled(groups, tuned),
        ruled(groups, tuned, GATES.model_copy(update={"weights": "group"})),
    )
    assert by_size.tuned == pytest.approx(39 / 99)
    assert by_group.tuned == pytest.approx(39 / 40)
    assert by_group.difference == pytest.approx(-1 / 40)
    assert by_group.difference == pytest.approx(by_group.tuned - by_group.base)
    assert (by_size.outcome, by_group.outcome) == ("undecided", "pass")
    assert "in 40 groups, each counting alike," in by_group.sentence


def test_groups_too_unlike_are_undecided_and_it_is_said_what_would_decide() -> None:
    rule = ruled(named(200, *[1] * 40), [1.0] * 240)
    assert rule.outcome == "undecided"
    least = present(present(rule.groups).least)
    assert least > 41
    assert (
        f"the largest group counts as 200 questions: even of no change, about {least:,} groups"
        in rule.sentence
    )
    assert "ask more groups, or of the task declare gates.weights: group" in rule.sentence
    copies = math.ceil(least / 41)
    assert ruled(named(*[200, *[1] * 40] * copies), [1.0] * 240 * copies).outcome == "pass"


def test_benchmarks_count_by_size_whatever_the_tenant_declares() -> None:
    gates = GATES.model_copy(update={"weights": "group", "general_margin": 0.15})
    own = [
        sample(n, 1.0, question=f"q:{n}:{n:04x}", role="task", task="exam", metric="acc") for n in range(40)
    ]
    groups = named(60, *[1] * 39)
    sides = [
        [
            sample(n, value, question=f"b:{n}:{n:04x}", role="general", task="quiz", metric="acc")._replace(
                group=group
            )
            for n, (value, group) in enumerate(zip(side, groups, strict=True))
        ]
        for side in ([1.0] * 99, [0.0] * 60 + [1.0] * 39)
    ]
    rule = judge([*own, *sides[0]], [*own, *sides[1]], gates).rules[1]
    assert rule.task == "quiz"
    assert rule.difference == pytest.approx(-60 / 99)


def test_the_least_number_of_equal_groups_is_that_of_questions() -> None:
    for margin in (0.0, 0.05, 0.15):
        found = groups_of(np.ones(30), Counting("size", 1), margin, 1.0, 0.025)
        assert found.least == least_questions(margin, alpha=0.025)


def test_a_part_of_the_questions_has_a_part_of_the_largest_group() -> None:
    assert Counting("size", 100).asked(0.25).largest == 25
    assert Counting().asked(0.25) == Counting()
    assert not are_unlike(np.full(4, 25.0), Counting("size", 100).asked(0.25))


def test_a_verdict_keeps_how_groups_counted() -> None:
    rule = ruled(named(200, *[1] * 40), [1.0] * 240)
    verdict = Verdict(rule.passed, rule.outcome, (rule,))
    assert Verdict.from_json(verdict.to_json()) == verdict
    plain = ruled([None] * 40, [1.0] * 40)
    assert "groups" not in plain.to_json()


@pytest.mark.slow
@pytest.mark.parametrize("population", POPULATIONS, ids=lambda each: each.name)
@pytest.mark.parametrize("groups", [10, 30, 100])
def test_a_fall_of_the_margin_passes_at_most_at_the_level_by_size_and_by_group(
    population: object, groups: int
) -> None:
    found = passes(population, groups, fallen=True, trials=400)  # type: ignore[arg-type]
    noise = 3 * math.sqrt(ALPHA * (1 - ALPHA) / 400)
    ways = [way for way in found if not way.endswith("of all sizes")]
    assert {way: found[way] for way in ways if found[way] > ALPHA + noise} == {}
