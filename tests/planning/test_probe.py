"""What is tried before a plan, and what the short trainings come to. Nothing is trained here."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from scipy.stats import ttest_rel

from ft_dagster.errors import UserError
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.methods.training_settings import steps_of
from ft_dagster.planning.paired_losses import difference
from ft_dagster.planning.plan import make_plan
from ft_dagster.planning.probe import (
    Arm,
    ProbePlan,
    ProbeResult,
    TriedArm,
    arms_of,
    conclude,
    finalists,
    leaves_open,
    plan_probe,
    settings_of,
    tried_arm,
    with_cost,
)
from ft_dagster.planning.survey import PlanContext, Survey, survey
from ft_dagster.spec.variant import PlanSpec, ProbeSpec
from ft_dagster.strict_json import finite
from ft_dagster.training.contract import LoraSettings
from ft_dagster.training.training_figures import TrainingFigures
from tests.planning.llama import spec
from tests.planning.small import given, surveyed
from tests.present import present
from tests.stored_figures import stored_training

ON = {"plan": {"probe": "on"}}


def tried(
    method: str, rate: float, loss: float | None, *, rise: float | None = 0.0, on: int = 32
) -> TriedArm:
    validation = {} if loss is None else {"8": loss + 1, str(on): loss}
    return TriedArm(method, rate, 20, validation, rise, 1e12, "diverged" if loss is None else None)


@pytest.mark.parametrize("said", [True, "on", {}])
def test_a_probe_is_asked_for_in_a_word(said: Any) -> None:
    assert PlanSpec(probe=said).probe == ProbeSpec(share=0.1, steps=20)


@pytest.mark.parametrize("said", [False, "off", None])
def test_none_is_asked_for_in_a_word(said: Any) -> None:
    assert PlanSpec(probe=said).probe is None


@pytest.mark.parametrize("said", ["maybe", 3, {"share": 21}, {"share": 0}, {"steps": 1}])
def test_anything_else_is_refused(said: Any) -> None:
    with pytest.raises(ValidationError):
        PlanSpec(probe=said)


def test_there_is_something_to_find_where_method_or_rate_is_open() -> None:
    assert leaves_open(spec(**ON))
    assert leaves_open(spec(method="lora", **ON))
    assert leaves_open(spec(training={"learning_rate": 1e-4}, **ON))
    assert not leaves_open(spec(method="lora", training={"learning_rate": 1e-4}, **ON))
    assert not leaves_open(spec(method={"rank": 8}, training={"learning_rate": 1e-4}, **ON))
    assert leaves_open(spec(method={"name": "lora", "rank": "auto"}, training={"learning_rate": 1e-4}, **ON))
    assert not leaves_open(spec())


def test_the_two_best_are_tried_for_longer() -> None:
    first = [tried("lora", 2e-4, 1.3), tried("full", 2e-5, 1.1), tried("lora", 6e-4, 1.2)]
    assert finalists(first, None) == [Arm("full", 2e-5), Arm("lora", 6e-4)]
    assert finalists(first[:2], None) == []
    assert (
        finalists([tried("lora", 2e-4, 1.3), tried("full", 2e-5, None), tried("lora", 1.0, None)], None) == []
    )


def test_what_forgets_more_than_is_allowed_comes_after_what_does_not() -> None:
    first = [tried("lora", 6e-4, 0.9, rise=0.3), tried("lora", 2e-4, 1.2, rise=0.05)]
    assert conclude([first], 0.1).learning_rate == 2e-4
    assert conclude([first], None).learning_rate == 6e-4
    over = [tried("lora", 6e-4, 0.9, rise=0.3), tried("lora", 2e-4, 1.2, rise=0.2)]
    assert (
        conclude([over], 0.1).learning_rate == 2e-4
    )  # the least that is forgotten, where all forget too much


def test_where_all_forget_too_much_for_longer_what_did_not_before_is_taken() -> None:
    first = [
        tried("lora", 6e-4, 1.2, rise=0.08), tried("full", 6e-5, 1.3, rise=0.09),
        tried("lora", 2e-4, 1.5, rise=0.02), tried("full", 2e-5, 1.6, rise=0.01),
    ]  # fmt: skip
    last = [tried("lora", 6e-4, 1.0, rise=0.15), tried("full", 6e-5, 1.1, rise=0.2)]
    found = conclude([first, last], 0.1)
    assert (found.method, found.learning_rate) == ("lora", 2e-4)  # not one that forgets too much soon after
    assert "lora at 0.0006, full at 6e-05 forgot too much or failed when tried for longer" in found.sentence
    assert conclude([first, last], 0.18).learning_rate == 6e-4
    none = conclude([first[:2], last], 0.1)
    assert (none.method, none.learning_rate) == ("lora", 6e-4)  # the least that is forgotten
    failed = [tried("lora", 6e-4, None), tried("full", 6e-5, None)]
    assert conclude([first, failed], 0.1).learning_rate == 2e-4
    past = [tried("lora", 2e-4, 1.5, rise=0.2)]
    found = conclude([[*first[:2], *past], failed], 0.1)
    assert found.learning_rate == 2e-4  # it forgets too much, but neither failed
    assert "lora at 0.0006, full at 6e-05 forgot too much or failed when tried for longer" in found.sentence


def test_a_short_training_may_forget_as_much_as_its_part_of_the_steps() -> None:
    """A rise of 0.045 in 20 of 87 steps became 0.35, of a LoRA on raw text (benchmarks/README.md)."""
    usual, other = tried("full", 6e-5, 1.3, rise=0.02), tried("lora", 4e-4, 1.2, rise=0.045)
    assert conclude([[usual, other]], 0.1).method == "lora"
    planned = ProbePlan((usual.arm, other.arm), 20, 0.5, "why", whole={"full": 87, "lora": 87})
    first, second = (replace(each, whole=planned.whole_of(each.arm)) for each in (usual, other))
    found = conclude([[first, second]], 0.1)  # 0.1 * 20 / 87 is 0.023
    assert (found.method, found.learning_rate) == ("full", 6e-5)
    assert "; lora at 0.0004 forgot more than its part, by steps, of 0.1 nats" in found.sentence
    assert ProbeResult.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert conclude([[first, second]], 0.2).method == "lora"
    assert conclude([[first, second]], None).method == "lora"


def test_what_is_usual_may_forget_all_of_the_limit_in_a_short_training() -> None:
    usual, other = tried("full", 1e-4, 1.0, rise=0.09), tried("lora", 4e-4, 1.4, rise=0.0)
    planned = ProbePlan((usual.arm, other.arm), 20, 0.5, "why", whole={"full": 48, "lora": 71})
    assert (planned.whole_of(usual.arm), planned.whole_of(other.arm)) == (None, 71)
    assert conclude([[usual, replace(other, whole=71)]], 0.1).method == "full"
    assert conclude([[replace(usual, whole=48), replace(other, whole=71)]], 0.1).method == "lora"


def test_each_method_is_tried_for_the_same_part_of_its_own_training() -> None:
    full, lora = Arm("full", 6e-5), Arm("lora", 4e-4)
    planned = ProbePlan((full, lora), 20, 0.5, "why", whole={"full": 50, "lora": 76})
    assert [planned.steps_of(arm, times) for times in (1, 2) for arm in (full, lora)] == [20, 30, 40, 61]
    found = conclude([[tried("full", 6e-5, 1.3), replace(tried("lora", 4e-4, 1.2), steps=30)]], None)
    assert found.sentence.startswith("tried for 20 to 30 steps: lora at 0.0004 1.200")


def test_forgetting_that_nobody_measured_is_said() -> None:
    found = conclude([[tried("lora", 2e-4, 1.2, rise=None), tried("full", 2e-5, 1.3, rise=None)]], 0.1)
    assert found.method == "lora"
    assert "; what is forgotten was not measured: there is no general text" in found.sentence
    assert "not measured" not in conclude([[tried("lora", 2e-4, 1.2)]], 0.1).sentence


def test_an_arm_whose_loss_on_general_text_is_no_number_has_failed() -> None:
    lost = {"general_holdout_loss_first": 3.0, "general_holdout_loss_last": math.nan}
    stored = finite(stored_training(validation_loss_on={"8": 1.5}, **lost))
    arm = tried_arm(Arm("lora", 2e-4), 20, TrainingFigures.from_json(stored))
    assert arm.failed == "no finite loss on general text came of it"


def apart(
    method: str, rate: float, losses: list[float], *, rise: float = 0.0, rank: int | None = None
) -> TriedArm:
    """An arm by what each of its examples lost, of two tokens each."""
    mean = sum(losses) / (2 * len(losses))
    arm = tried(method, rate, mean, rise=rise, on=len(losses))
    return replace(arm, rank=rank, examples=tuple((loss, 2) for loss in losses))


SPREAD = [1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0, 5.0, 5.0]  # far more than any two arms differ


def all_less(by: float) -> list[float]:
    """Less by about so much on each example."""
    return [loss - by + 0.01 * (-1) ** at for at, loss in enumerate(SPREAD)]


def here_and_there(by: float) -> list[float]:
    """As much less in the mean, half of it for the better and half for the worse."""
    return [loss - by + 2.0 * (-1) ** at for at, loss in enumerate(SPREAD)]


def test_a_difference_is_that_of_the_same_examples_with_its_interval() -> None:
    one, other = all_less(0.2), SPREAD
    found = present(difference([(loss, 1) for loss in one], [(loss, 1) for loss in other], len(SPREAD)))
    expected = ttest_rel(one, other).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(-0.2)
    long = [(10.0, 100), (1.0, 1)], [(20.0, 100), (3.0, 1)]
    assert present(difference(*long, 2)).value == pytest.approx(-12 / 101)  # a token counts as any other
    assert difference([], [(1.0, 1)] * 8, 8) is None
    assert difference([(1.0, 1)], [(2.0, 1)], 1) is None


def test_what_is_usual_holds_unless_another_arm_is_shown_to_be_better() -> None:
    usual = apart("lora", 2e-4, SPREAD)
    better = conclude([[usual, apart("lora", 6e-4, all_less(0.2))]], None)
    assert better.learning_rate == 6e-4
    assert "; lora at 0.0006 less lora at 0.0002 is -0.100 nats a token (95% interval -0.1" in better.sentence
    chance = conclude([[usual, apart("lora", 6e-4, here_and_there(0.2))]], None)
    assert chance.learning_rate == 2e-4
    assert "; lora at 0.0002, which is usual, holds: lora at 0.0006 less it is -0.100 nats" in chance.sentence
    assert chance.sentence.count("95% interval") == 1
    forgets = replace(usual, general_rise=0.3)
    assert conclude([[forgets, apart("lora", 6e-4, here_and_there(0.2))]], 0.1).learning_rate == 6e-4


def test_what_is_usual_is_held_against_the_best_where_both_were_tried_last() -> None:
    usual, others = apart("lora", 2e-4, SPREAD), [apart("full", 2e-5, all_less(0.1))]
    for losses, taken in ((all_less(0.2), 6e-4), (here_and_there(0.2), 2e-4)):
        first = [usual, *others, apart("lora", 6e-4, losses)]
        last = [apart("full", 2e-5, all_less(0.3)), apart("lora", 6e-4, all_less(0.4))]
        assert conclude([first, last], None).learning_rate == taken
    first = [usual, *others, apart("lora", 6e-4, all_less(0.2))]
    last = [apart("lora", 6e-4, here_and_there(0.2)), usual]
    assert conclude([first, last], None).learning_rate == 2e-4


def test_the_usual_rank_holds_where_another_is_not_shown_to_be_better() -> None:
    usual = apart("lora", 2e-4, SPREAD, rank=16)
    lucky = conclude([[usual, apart("lora", 2e-4, here_and_there(1.0), rank=32)]], None)
    assert (lucky.rank, lucky.learning_rate) == (16, 2e-4)
    shown = conclude([[usual, apart("lora", 2e-4, all_less(1.0), rank=32)]], None)
    assert shown.rank == 32
    hardly = conclude([[usual, apart("lora", 2e-4, all_less(0.05), rank=32)]], None)
    assert hardly.rank == 16
    assert hardly.sentence.endswith("; by less than 2% the usual rank holds")


def test_what_examples_lost_is_kept() -> None:
    found = conclude([[apart("lora", 2e-4, SPREAD), apart("full", 2e-5, all_less(0.2))]], None)
    assert ProbeResult.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_probe_of_the_first_schema_is_read() -> None:
    arm = {
        "method": "lora", "learning_rate": 2e-4, "steps": 20, "validation": {"8": 1.5}, "general_rise": 0.01,
        "flops": 1e12, "failed": None,
    }  # fmt: skip
    found_then = {"method": "lora", "learning_rate": 2e-4, "sentence": "s", "rounds": [[arm]]}
    read = ProbeResult.from_json({"schema_version": 1, **found_then})
    assert read.rounds[0][0] == TriedArm("lora", 2e-4, 20, {"8": 1.5}, 0.01, 1e12)


def test_a_probe_of_the_second_schema_is_read() -> None:
    arm = {
        "method": "lora", "learning_rate": 2e-4, "steps": 20, "validation": {"8": 1.5}, "general_rise": 0.01,
        "flops": 1e12, "failed": None, "rank": 8, "examples": [[1.5, 4], [1.25, 2]],
    }  # fmt: skip
    found_then = {"method": "lora", "learning_rate": 2e-4, "sentence": "s", "rank": 8, "rounds": [[arm]]}
    (tried,) = ProbeResult.from_json({"schema_version": 2, **found_then}).rounds[0]
    assert (tried.rank, tried.examples) == (8, ((1.5, 4), (1.25, 2)))
    assert tried == TriedArm("lora", 2e-4, 20, {"8": 1.5}, 0.01, 1e12, None, 8, ((1.5, 4), (1.25, 2)))


def test_figures_of_examples_are_those_that_the_losses_are_of() -> None:
    stored = finite(
        stored_training(
            validation_loss_on={"8": 1.0, "16": math.inf},
            validation_by_example=[[2.0, 2]] * 8 + [[math.inf, 2]] + [[2.0, 2]] * 7,
        )
    )
    arm = tried_arm(Arm("lora", 2e-4), 20, TrainingFigures.from_json(stored))
    assert arm.examples == ((2.0, 2),) * 8


def test_a_rank_of_the_last_round_is_no_reason_to_leave_the_usual_rate() -> None:
    usual, other = (
        apart("lora", 4e-4, all_less(0.0), rank=16),
        apart("lora", 1e-3, here_and_there(0.2), rank=16),
    )
    third = apart("lora", 1e-4, all_less(-0.3), rank=16)
    last = [other, apart("lora", 1e-3, all_less(0.5), rank=32)]
    assert conclude([[usual, other, third], last], None).learning_rate == 4e-4


def test_what_was_spent_is_said_beside_what_was_announced() -> None:
    arms = tried("lora", 2e-4, 1.0), tried("full", 2e-5, 1.1)
    planned = ProbePlan(tuple(each.arm for each in arms), 20, 0.3, "why", flops=1e13)
    said = "; they took 20% of the training's FLOPs, where 30% were announced"
    assert with_cost(conclude([arms], None), planned).sentence.endswith(said)
    some = conclude([[*arms, replace(tried("lora", 1.0, None), flops=None)]], None)
    assert "; they took at least 20% of the training's FLOPs" in with_cost(some, planned).sentence
    none = conclude([[replace(each, flops=None) for each in arms]], None)
    assert with_cost(none, planned) == none


def test_losses_are_compared_on_as_many_examples_as_all_measured() -> None:
    few = TriedArm("full", 2e-5, 20, {"8": 2.0}, 0.0)
    many = TriedArm("lora", 2e-4, 20, {"8": 2.1, "32": 1.0}, 0.0)
    found = conclude([[few, many]], None)
    assert found.method == "full"
    assert "full at 2e-05 2.000 on 8 examples" in found.sentence


def test_the_last_round_decides_and_what_diverged_is_named() -> None:
    first = [tried("lora", 2e-4, 1.0), tried("lora", 6e-4, 1.1), tried("lora", 2e-3, None)]
    found = conclude([first, [tried("lora", 2e-4, 0.9), tried("lora", 6e-4, 0.8)]], None)
    assert (found.method, found.learning_rate) == ("lora", 6e-4)
    assert found.sentence.endswith("lora at 0.002 diverged or failed")
    assert ProbeResult.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_where_all_diverge_the_way_out_is_said() -> None:
    with pytest.raises(UserError, match="every method and rate that was tried failed") as error:
        conclude([[tried("lora", 2e-4, None), tried("full", 2e-5, None)]], None)
    assert error.value.field == "plan.probe"
    assert "declare method and training.learning_rate" in error.value.fix


def test_losses_that_are_not_finite_are_none_and_an_arm_without_any_is_out() -> None:
    stored = finite(stored_training(validation_loss_on={"8": 1.5, "16": math.inf}))
    some = tried_arm(Arm("lora", 2e-4), 20, TrainingFigures.from_json(stored))
    assert (some.validation, some.failed) == ({"8": 1.5}, None)
    stored = finite(stored_training(validation_loss_on={"8": math.nan}))
    none = tried_arm(Arm("full", 2e-5), 20, TrainingFigures.from_json(stored))
    assert none.failed == "no finite validation loss came of it"
    assert conclude([[none, some]], None).method == "lora"


def test_a_result_of_a_newer_version_is_refused() -> None:
    content = {**ProbeResult(None, None, "nothing").to_json(), "schema_version": 99}
    with pytest.raises(UserError, match="newer"):
        ProbeResult.from_json(content)


@pytest.mark.slow
def test_arms_are_the_best_of_each_family_at_three_rates(small: PlanContext) -> None:
    declared, known, found = surveyed(small, 4000, **ON)
    arms = arms_of(declared, known, found)
    assert len(arms) == len(set(arms)) == 6
    first, second = arms[:2]
    assert {first.method, second.method} == {"full", "lora"}
    assert first.method == found.decision.recommended
    assert [arm.learning_rate for arm in arms if arm.method == "lora"] == [4e-4, 1e-3, 1e-4]
    named, _, other = surveyed(small, 4000, method="qlora", **ON)
    assert {arm.method for arm in arms_of(named, known, other)} == {"qlora"}
    rated, _, third = surveyed(small, 4000, training={"learning_rate": 1e-3}, **ON)
    assert {arm.learning_rate for arm in arms_of(rated, known, third)} == {1e-3}


RANKED = {"method": {"name": "lora", "rank": "auto"}}
RATED = {"training": {"learning_rate": 1e-3}}


@pytest.mark.parametrize(
    ("objective", "ranks"), [("instruction", {8, 16, 32}), ("domain_knowledge", {64, 128})]
)
def test_no_rank_is_tried_below_that_of_an_objective_that_has_its_own(
    small: PlanContext, objective: str, ranks: set[int]
) -> None:
    declared, known, found = surveyed(small, 4000, objective=objective, **RANKED, **RATED, **ON)
    assert {arm.rank for arm in arms_of(declared, known, found)} == ranks


def ranked(rank: int | None, loss: float | None, *, rise: float = 0.0) -> TriedArm:
    return replace(tried("lora", 2e-4, loss, rise=rise), rank=rank)


def test_the_better_lora_of_the_finalists_is_tried_at_other_ranks() -> None:
    first = [tried("full", 2e-5, 1.0), ranked(16, 1.1), tried("full", 6e-5, 1.2)]
    assert finalists(first, None, (8, 32)) == [
        Arm("full", 2e-5), Arm("lora", 2e-4, 16), Arm("lora", 2e-4, 8), Arm("lora", 2e-4, 32),
    ]  # fmt: skip
    assert finalists(first[:2], None) == []
    assert len(finalists(first[:2], None, (8, 32))) == 4  # of two there is a second round for the ranks alone
    assert finalists([tried("full", 2e-5, 1.0), tried("full", 6e-5, 1.1)], None, (8, 32)) == []


def test_another_rank_is_taken_where_it_is_better_by_more_than_loras_differ() -> None:
    first = [ranked(16, 1.2), replace(ranked(16, 1.5), learning_rate=6e-4)]
    clear = conclude([first, [ranked(16, 1.0), ranked(8, 1.1), ranked(32, 0.97)]], None)
    assert (clear.rank, clear.learning_rate) == (32, 2e-4)
    assert "lora at 0.0002 and rank 32 0.970" in clear.sentence
    hardly = conclude([first, [ranked(16, 1.0), ranked(8, 1.1), ranked(32, 0.99)]], None)
    assert hardly.rank == 16
    assert hardly.sentence.endswith("; by less than 2% the usual rank holds")
    over = conclude([first, [ranked(16, 1.0, rise=0.3), ranked(32, 0.99)]], 0.1)
    assert over.rank == 32  # the usual one forgets too much
    worse = conclude([first, [ranked(16, 1.0, rise=0.3), ranked(32, 0.9, rise=0.4)]], 0.1)
    assert worse.rank == 16  # the least that is forgotten


def test_a_rank_is_measured_where_two_were_tried_and_no_other_probe_is_written_otherwise() -> None:
    one = conclude([[ranked(16, 1.0), tried("full", 2e-5, 1.1)]], None)
    assert (one.method, one.rank) == ("lora", None)
    two = conclude([[ranked(16, 1.0), ranked(32, None)]], None)
    assert two.rank == 16
    assert ProbeResult.from_json(json.loads(json.dumps(two.to_json()))) == two
    none = conclude([[tried("lora", 2e-4, 1.0)]], None).to_json()
    assert "rank" not in json.dumps(none)


def learning_little(context: PlanContext, **declared: Any) -> tuple[Any, Facts, Survey]:
    """Many steps, and few trained tokens: the usual rank of 32 is enough."""
    declaration, known = spec(**declared), replace(given(context, 400_000), trained_tokens=10_000)
    return declaration, known, survey(declaration, known, context)


@pytest.mark.slow
def test_where_only_the_rank_is_open_it_is_what_differs(small: PlanContext) -> None:
    declared, known, found = learning_little(small, **ON, **RANKED, **RATED)
    usual = found.chosen.resolved.method
    assert isinstance(usual, LoraSettings)
    arms = arms_of(declared, known, found)
    assert arms[0] == Arm("lora", 1e-3, usual.rank)
    assert [arm.rank for arm in arms[1:]] == [usual.rank // 2, 2 * usual.rank]
    plan = plan_probe(declared, known, found, ProbeSpec())
    assert (plan.arms, plan.ranks) == (arms, ())
    named = settings_of(arms[2], declared, known, found)
    assert isinstance(named, LoraSettings)
    assert (named.rank, named.alpha) == (2 * usual.rank, 32.0)
    assert settings_of(arms[0], declared, known, found) == usual


@pytest.mark.slow
def test_ranks_are_tried_in_the_second_round_where_the_budget_holds_them(small: PlanContext) -> None:
    declared, known, found = learning_little(small, **ON, **RANKED)
    rich = plan_probe(declared, known, found, ProbeSpec())
    rank = rich.arms[0].rank
    assert rank is not None
    assert (len(rich.arms), rich.ranks) == (3, (rank // 2, 2 * rank))
    assert f"then the best 2 of {2 * rich.steps}, at rank {rank // 2} and {2 * rank} too" in rich.why
    assert 0.05 < rich.share <= 0.1
    without = plan_probe(spec(**ON, method="lora"), known, found, ProbeSpec())
    assert without.ranks == ()
    assert without.steps > rich.steps  # the same budget, for fewer
    poor = plan_probe(declared, known, found, ProbeSpec(share=1e-4))
    assert poor.ranks == ()
    assert len(poor.arms) == 3
    any_method, known, found = learning_little(small, **ON, method={"rank": "auto"})
    both = plan_probe(any_method, known, found, ProbeSpec())
    assert {arm.method for arm in both.arms} == {"full", "lora"}
    assert all((arm.rank is None) == (arm.method == "full") for arm in both.arms)
    assert len(both.ranks) == 2


@pytest.mark.slow
def test_a_plan_has_the_rank_of_a_probe_as_a_declared_one(small: PlanContext) -> None:
    declared, known = spec(**ON, **RANKED), given(small, 400_000)
    result = conclude([[ranked(16, 1.0), ranked(32, 0.9)]], None)
    made = make_plan(declared, known, small, result)
    (reason,) = (each for each in made.estimate.plan.reasons if each.field == "method.rank")
    assert (reason.value, reason.origin, reason.reason) == (32, "measured", result.sentence)
    alike = spec(method={"name": "lora", "rank": 32}, training={"learning_rate": 2e-4})
    assert made.content.to_json() == make_plan(alike, known, small).content.to_json()


@pytest.mark.slow
def test_a_probe_takes_its_share_and_never_more_than_the_training(small: PlanContext) -> None:
    settings = ProbeSpec()
    declared, known, found = surveyed(small, 400_000, **ON)
    large = plan_probe(declared, known, found, settings)
    assert len(large.arms) == 6
    assert large.steps > settings.steps
    assert large.whole["lora"] == 1.5 * large.whole["full"]  # by their epochs
    steps, longer = large.steps, large.steps_of(Arm("lora", 4e-4))
    assert longer == round(1.5 * steps)
    assert f"6 short trainings of {steps} to {longer} steps, then the best 2 of {2 * steps} to " in large.why
    assert 0.05 < large.share <= settings.share
    priced = r"about \d+% of the training.s FLOPs, [\d.]+ h, \$[\d.]+ beside what it takes to start them$"
    assert re.search(priced, large.why)
    declared, known, found = surveyed(small, 4000, **ON)
    medium = plan_probe(declared, known, found, settings)
    assert medium.steps == settings.steps
    assert 1 < len(medium.arms) < 6
    assert settings.share < medium.share <= 1
    declared, known, found = surveyed(small, 100, **ON)
    tiny = plan_probe(declared, known, found, settings)
    assert tiny.arms == ()
    assert tiny.why.startswith("nothing is tried: ")


@pytest.mark.slow
def test_a_share_above_one_is_spent_on_whole_trainings_where_it_pays_for_two(small: PlanContext) -> None:
    declared, known, found = surveyed(small, 100, **ON)
    steps = {name: found.planned[name].resolved.training for name in ("full", "lora")}
    plans = {share: plan_probe(declared, known, found, ProbeSpec(share=share)) for share in (1, 4, 8, 20)}
    assert plans[1].arms == ()
    for share in (4, 8, 20):
        planned = plans[share]
        assert planned.wholly
        assert planned.share <= share
        assert [planned.steps_of(arm) for arm in planned.arms] == [
            steps_of(steps[arm.method], known) for arm in planned.arms
        ]
        assert {planned.whole_of(arm) for arm in planned.arms} == {None}  # each has all of the limit
        assert f"{len(planned.arms)} whole trainings of " in planned.why
        assert f": about {planned.share:.0%} of the training's FLOPs" in planned.why
    few, some, many = (plans[share].arms for share in (4, 8, 20))
    assert 2 == len(few) < len(some) < len(many)
    assert many[: len(some)] == some
    assert some[:2] == few == arms_of(declared, known, found)[:2]
    assert len(set(many)) == len(many)
    rates = {name: [arm.learning_rate for arm in many if arm.method == name] for name in ("full", "lora")}
    assert rates == {"full": [6e-5, 1e-4, 2e-4, 2e-5], "lora": [4e-4, 2e-3, 1e-3, 6e-4, 1e-4]}
    assert plan_probe(declared, known, found, ProbeSpec()).arms == ()  # `on` is as it was


@pytest.mark.slow
def test_a_share_between_one_and_two_trainings_is_spent_on_shorter_ones(small: PlanContext) -> None:
    declared, known, found = surveyed(small, 4000, **ON)
    planned = plan_probe(declared, known, found, ProbeSpec(share=1.5))
    assert not planned.wholly
    assert 1 < planned.share <= 1.5
    assert planned.steps > plan_probe(declared, known, found, ProbeSpec()).steps


@pytest.mark.slow
def test_ranks_come_last_where_whole_trainings_are_tried(small: PlanContext) -> None:
    declared, known, found = learning_little(small, **ON, **RANKED)
    planned = plan_probe(declared, known, found, ProbeSpec(share=20))
    rank = planned.arms[0].rank
    assert rank is not None
    assert planned.ranks == ()
    assert [arm.rank for arm in planned.arms[-2:]] == [rank // 2, 2 * rank]
    assert {arm.rank for arm in planned.arms[:-2]} == {rank}
    fewer = plan_probe(declared, known, found, ProbeSpec(share=4))
    assert fewer.arms == planned.arms[: len(fewer.arms)]


def test_of_whole_trainings_the_best_is_taken() -> None:
    arms = [apart("lora", 2e-4, SPREAD), apart("lora", 6e-4, here_and_there(0.2))]
    assert conclude([arms], None).learning_rate == 2e-4
    found = conclude([arms], None, wholly=True)
    assert found.learning_rate == 6e-4
    assert found.sentence.startswith("trained wholly, in 20 steps: lora at 0.0006 ")
    assert "lora at 0.0006 less lora at 0.0002 is -0.100 nats a token (95% interval " in found.sentence
    forgetful = [arms[0], replace(arms[1], general_rise=0.2)]
    assert conclude([forgetful], 0.1, wholly=True).learning_rate == 2e-4


@pytest.mark.slow
def test_nothing_is_tried_where_one_method_fits_and_its_rate_is_declared(small: PlanContext) -> None:
    declared, known, found = surveyed(small, 400_000, training={"learning_rate": 1e-3}, **ON)
    assert len(plan_probe(declared, known, found, ProbeSpec()).arms) == 2
    best = [row for row in found.decision.ranking if row.method == "lora"]
    one = replace(found, decision=replace(found.decision, ranking=tuple(best)))
    plan = plan_probe(declared, known, one, ProbeSpec())
    assert plan.arms == ()
    assert plan.why == "nothing is tried: one method fits, and the rate is declared"


@pytest.mark.slow
def test_a_plan_by_trial_says_so_and_a_declared_value_stands(small: PlanContext, tmp_path: Path) -> None:
    declared, known = spec(**ON), given(small, 400_000)
    before = make_plan(declared, known, small)
    assert any("before this plan is final: 6 short trainings of" in each for each in before.estimate.warnings)
    result = conclude([[tried("full", 6e-5, 1.0), tried("lora", 2e-4, 1.1)]], None)
    made = make_plan(declared, known, small, result)
    assert (made.content.method.name, made.content.training.learning_rate) == ("full", 6e-5)
    reasons = {reason.field: reason for reason in made.estimate.plan.reasons}
    for field in ("method.name", "training.learning_rate"):
        assert reasons[field].origin == "measured"
        assert "full at 6e-05 1.000 on 32 examples" in reasons[field].reason
    assert not [each for each in made.estimate.warnings if "obeyed" in each or "probe" in each]
    nothing = make_plan(declared, known, small, ProbeResult(None, None, "nothing is tried: why"))
    assert nothing.content.to_json() == before.content.to_json()
    assert "probe: nothing is tried: why; the usual values hold" in nothing.estimate.warnings
