from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ft_dagster.errors import UserError
from ft_dagster.gate.gaffke import mean_p
from ft_dagster.gate.level import ALPHA, level_of
from ft_dagster.gate.power import (
    LOSS_BOUND,
    POWER,
    HopelessGate,
    PairedTest,
    hopeless_gates,
    least_questions,
    texts_of_losses,
)
from ft_dagster.spec.reference import LEAST
from ft_dagster.spec.variant import EvaluationSpec, GatesSpec


def share_that_passes(
    values: Sequence[float], shares: Sequence[float], count: int, margin: float, bound: float = 1.0
) -> float:
    counts = np.random.default_rng(7).multinomial(count, shares, 4000)
    distinct, often = np.unique(counts, axis=0, return_counts=True)
    grid = np.broadcast_to(np.array(values) + margin, distinct.shape)
    p = mean_p(grid, np.full(len(distinct), bound - margin), distinct)
    return float(often[p < ALPHA].sum() / often.sum())


@pytest.mark.parametrize("discordant", [0.05, 0.10, 0.20])
@pytest.mark.parametrize("margin", [0.03, 0.05, 0.10])
def test_so_many_questions_show_that_margin_in_trials(margin: float, discordant: float) -> None:
    count = PairedTest(discordant).questions_needed(margin)
    shares = [discordant / 2, discordant / 2, 1 - discordant]
    passed = share_that_passes([1.0, -1.0, 0.0], shares, count, margin)
    assert passed == pytest.approx(POWER, abs=0.06)  # answers are counted in whole numbers


def test_so_many_texts_show_that_rise_in_trials() -> None:
    count = PairedTest(0.04, LOSS_BOUND).questions_needed(0.1)
    passed = share_that_passes([0.2, -0.2], [0.5, 0.5], count, 0.1, LOSS_BOUND)
    assert passed == pytest.approx(POWER, abs=0.06)


@pytest.mark.parametrize(
    ("margin", "bound", "least"), [(0.05, 1.0, 59), (0.15, 1.0, 19), (0.1, 2.0, 59), (0.0, 1.0, 5)]
)
def test_below_a_number_of_questions_no_rule_can_pass(margin: float, bound: float, least: int) -> None:
    best = 0.0 if margin else bound
    p = {n: float(mean_p(np.full(n, best + margin), bound - margin)) for n in (least - 1, least)}
    assert p[least - 1] > ALPHA >= p[least]
    assert least_questions(margin, bound=bound) == least


def test_the_margin_seen_is_the_margin_needed() -> None:
    test, sure = PairedTest(), PairedTest(spread=0.0)
    assert test.margin_seen(test.questions_needed(0.03)) == pytest.approx(0.03, rel=2e-3)
    assert sure.margin_seen(sure.questions_needed(0.1)) == pytest.approx(0.1, rel=0.05)


def test_a_single_question_shows_nothing() -> None:
    assert PairedTest().margin_seen(1) == pytest.approx(1.0)


@pytest.mark.parametrize("margin", [0.0, -0.02, 1.5])
def test_a_margin_of_nothing_cannot_be_shown(margin: float) -> None:
    with pytest.raises(UserError, match="margin"):
        PairedTest().questions_needed(margin)


def test_the_levels_of_all_tries_together_are_alpha() -> None:
    assert [level_of(0.05, k) for k in (1, 2, 3)] == pytest.approx([0.05 / 2, 0.05 / 6, 0.05 / 12])
    assert 0.0499 < sum(level_of(0.05, k) for k in range(1, 1000)) < 0.05
    for attempt in (0, -2):
        with pytest.raises(ValueError, match="counted from 1"):
            level_of(0.05, attempt)


def hopeless(
    gates: dict[str, Any] | None = None,
    known: dict[str, int] | None = None,
    there: dict[str, int] | None = None,
    **evaluation: Any,
) -> dict[str, HopelessGate]:
    """With a tail of a loss that 2 texts show."""
    declared = GatesSpec(**{"loss_tail": 0.9, **(gates or {})})
    found = hopeless_gates(declared, EvaluationSpec(**evaluation), known, there)
    return {one.field: one for one in found}


def test_a_rule_that_no_model_can_pass_says_so_and_from_how_many_questions_on_it_can() -> None:
    found = hopeless(limit=60)
    assert set(found) == {"gates.general_margin"}
    found = hopeless(limit=40)
    assert set(found) == {"gates.general_margin", "gates.regression_loss_margin"}
    one = found["gates.general_margin"]
    assert (one.asked, one.least, one.value) == (40, 72, 0.05)
    assert "of 40 questions even a model of which no answer changed would stay undecided" in one.sentence
    assert one.fix == "Raise evaluation.limit to 72, or allow more"
    assert hopeless(limit=72) == hopeless(limit=None) == hopeless(limit="auto") == {}
    assert set(hopeless({"general_margin": 0.001}, limit="auto")) == {"gates.general_margin"}


def test_the_task_is_hopeless_where_not_even_all_right_would_do() -> None:
    alone = {"regression_margin": None}
    assert set(hopeless(alone, limit=5, general=())) == {"gates.task_margin"}
    assert hopeless(alone, limit=6, general=()) == {}


def test_a_second_version_that_could_never_be_held_against_the_first_is_said_too() -> None:
    (one,) = hopeless(limit=47, general=()).values()
    assert (one.field, one.least) == ("gates.regression_loss_margin", 48)
    assert one.sentence.startswith("no version after the first passes whatever is trained: of 47 questions")
    assert hopeless(limit=48, general=()) == {}
    for judged in ({"kind": "label"}, {"task": ("quiz.yaml",)}):
        (one,) = hopeless(limit=71, general=(), **judged).values()
        assert (one.field, one.least) == ("gates.regression_margin", 72)


@pytest.mark.parametrize("limit", [100, 400, "auto", None])
def test_a_margin_that_the_held_out_texts_cannot_show_is_hopeless_whatever_the_limit(limit: Any) -> None:
    one = hopeless({"general_loss_margin": 0.02}, limit=limit)["gates.general_loss_margin"]
    assert (one.asked, one.least) == (200, 368)
    assert one.fix == "Hold out 368 texts (data.general.held_out, if the corpus has them), or allow more"
    one = hopeless({"general_loss_margin": 0.003}, limit=limit)["gates.general_loss_margin"]
    assert (one.least > 2000, one.fix) == (True, "Allow more")
    one = hopeless({"general_loss_margin": 0.02}, {"general_loss": 90}, limit=limit)[
        "gates.general_loss_margin"
    ]
    assert one.asked == 90
    assert one.fix.startswith("Hold out 368 texts")


@pytest.mark.parametrize(("tail", "least"), [(0.02, 183), (0.05, 72)])
def test_a_tail_that_too_few_texts_can_show_is_hopeless(tail: float, least: int) -> None:
    label: dict[str, Any] = {"kind": "label", "general": ()}
    gates = {"loss_tail": tail, "general_loss_margin": 1.0}
    (one,) = hopeless(gates, {"general_loss": least - 1}, **label).values()
    assert (one.rule, one.field, one.value) == ("general_loss", "gates.loss_tail", tail)
    assert (one.asked, one.least) == (least - 1, least)
    assert one.fix == f"Hold out {least} texts (data.general.held_out, if the corpus has them), or allow more"
    assert hopeless(gates, {"general_loss": least}, **label) == {}


@pytest.mark.parametrize(
    ("declared", "own"),
    [
        ({}, True),
        ({"kind": "label"}, False),
        ({"task": ("quiz.yaml",)}, False),
        ({"kind": "label", "metrics": {"test_split_task": "completion_loss"}}, True),
        ({"metrics": {"own_task": "token_f1"}}, False),
    ],
)
def test_the_own_task_has_a_tail_where_a_loss_judges_it(declared: dict[str, Any], own: bool) -> None:
    metrics = {"metrics": declared.pop("metrics", {})}
    found = hopeless({"loss_tail": 0.02, **metrics}, {"task": 182}, general=(), **declared)
    assert [each.rule for each in found.values()] == (["task"] if own else [])
    if own:
        assert found["gates.loss_tail"].fix.startswith("Ask 183 questions")


def test_more_held_out_texts_let_more_tries_pass() -> None:
    gates, asked = GatesSpec(), EvaluationSpec()
    for texts, left in ((200, 1), (400, 12)):
        passing = [
            number
            for number in range(1, 20)
            if not any(
                one.rule == "general_loss" for one in hopeless_gates(gates, asked, tries=number, texts=texts)
            )
        ]
        assert passing == [*range(1, left + 1)]


def test_what_is_known_of_the_data_counts_where_it_is_less() -> None:
    found = hopeless(known={"general_loss": 20, "task": 3})
    assert {field: one.asked for field, one in found.items()} == {
        "gates.general_loss_margin": 20,
        "gates.task_margin": 3,
        "gates.regression_loss_margin": 3,
    }
    assert found["gates.general_loss_margin"].least == 72


def test_a_benchmark_that_has_too_few_questions_is_named() -> None:
    two: dict[str, Any] = {"general": ("tasks/small.yaml", "arc_easy")}
    (one,) = hopeless(there={"tasks/small.yaml": 71, "arc_easy": 72, "elsewhere": 3}, **two).values()
    assert (one.field, one.value, one.asked, one.least) == ("gates.general_margin", 0.05, 71, 72)
    assert (
        "of the 71 questions that tasks/small.yaml has even a model of which no answer changed"
        in one.sentence
    )
    assert one.fix == "Give it 72 questions, name another in its place, or allow more"
    assert hopeless(there={"arc_easy": 72}, **two) == {}
    (one,) = hopeless(there={"arc_easy": 3}, limit=60, general=("arc_easy",)).values()
    assert (one.asked, one.fix) == (60, "Raise evaluation.limit to 72, or allow more")


def test_a_task_that_has_too_few_questions_is_named() -> None:
    found = hopeless(there={"facts.yaml": 5}, task=("facts.yaml",), general=())
    assert {field: one.least for field, one in found.items()} == {
        "gates.task_margin": 6,
        "gates.regression_margin": 72,
    }


def test_a_margin_of_degeneration_that_the_prompts_cannot_show_is_hopeless() -> None:
    assert set(hopeless({"degeneration_margin": 0.1})) == {"gates.degeneration_margin"}
    assert hopeless({"degeneration_margin": 0.11}) == {}


def test_nothing_is_hopeless_where_what_was_measured_decides() -> None:
    assert hopeless({"undecided": "measured"}, limit=1) == {}


@pytest.mark.parametrize("margin", [1e-17, 5e-324, 1e-300])
def test_a_margin_of_next_to_nothing_takes_no_number_by_zero(margin: float) -> None:
    assert least_questions(margin, bound=LOSS_BOUND) > 10**16


def test_the_smallest_margins_and_levels_that_can_be_declared_are_told_what_they_take() -> None:
    smallest = GatesSpec(
        task_margin=LEAST, general_margin=LEAST, general_loss_margin=LEAST, regression_margin=LEAST,
        regression_loss_margin=LEAST, degeneration_margin=LEAST, alpha=LEAST,
    )  # fmt: skip
    found = {rule.field for rule in hopeless_gates(smallest, EvaluationSpec())}
    assert {f"gates.{name}" for name in ("task_margin", "general_margin", "general_loss_margin")} <= found


def test_what_a_loss_takes_is_said_for_each_that_judges() -> None:
    tail = "and from 183 on that 2% or more rise by more (gates.loss_tail)"
    mean = "from 72 texts on a mean rise of 0.1 nats a token can be ruled out"
    fall, counted = "from 6 texts on a mean fall can be shown", "each counted up to 2 nats"
    found = texts_of_losses(GatesSpec(), EvaluationSpec(), general=True)
    assert [loss.least for loss in found] == [183, 183]
    assert tuple(loss.sentence for loss in found) == (
        f"general text is judged by its loss: {mean}, {counted}, {tail}",
        f"the test split is judged by its loss: {fall}, {counted}, {tail}",
    )
    (demo,) = texts_of_losses(GatesSpec(loss_tail=0.05), EvaluationSpec(kind="label"), general=True)
    assert demo.least == 72
    assert "from 72 on that 5% or more" in demo.sentence
    assert texts_of_losses(GatesSpec(), EvaluationSpec(kind="label"), general=False) == ()
    (wide,) = texts_of_losses(GatesSpec(loss_bound=20.0), EvaluationSpec(kind="label"), general=True)
    assert (
        "from 736 texts on a mean rise of 0.1 nats a token can be ruled out, each counted up to 20"
        in wide.sentence
    )
