"""What is tried before a plan. Nothing is trained here."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ft_dagster.planning.methods.training_settings import steps_of
from ft_dagster.planning.plan import make_plan
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.planning.probe import ProbePlan, arms_of, leaves_open, plan_probe, with_cost
from ft_dagster.planning.survey import survey
from ft_dagster.planning.trials import Arm, ProbeResult, conclude
from ft_dagster.spec.variant import PlanSpec, ProbeSpec
from tests.planning.llama import spec
from tests.planning.small import given, surveyed
from tests.planning.tried import tried
from tests.present import present

ON = {"plan": {"probe": "on"}}


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
    assert not leaves_open(spec())


def test_a_short_training_may_forget_as_much_as_its_part_of_the_steps() -> None:
    """A rise of 0.045 in 20 of 87 steps became 0.35, LoRA on raw text (benchmarks/notes/decisions.md)."""
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


def test_what_was_spent_is_said_beside_what_was_announced() -> None:
    arms = tried("lora", 2e-4, 1.0), tried("full", 2e-5, 1.1)
    planned = ProbePlan(tuple(each.arm for each in arms), 20, 0.3, "why", flops=1e13)
    said = "; they took 20% of the training's FLOPs, where 30% were announced"
    assert with_cost(conclude([arms], None), planned).sentence.endswith(said)
    some = conclude([[*arms, replace(tried("lora", 1.0, None), flops=None)]], None)
    assert "; they took at least 20% of the training's FLOPs" in with_cost(some, planned).sentence
    none = conclude([[replace(each, flops=None) for each in arms]], None)
    assert with_cost(none, planned) == none


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
    priced = r"about \d+% of the training.s FLOPs, [\d.hms ]+, \$[\d.]+ beside what it takes to start them$"
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
def test_what_a_probe_costs_counts_towards_the_budget_before_it_runs_and_after(small: PlanContext) -> None:
    """It fits the budget without, and not with the probe; the plan says so, and what the probe's part is."""
    priced = replace(small, hardware=replace(small.hardware, usd_per_hour=1000.0))
    price = priced.hardware.usd_per_hour
    declared, known, found = surveyed(priced, 4000, **ON)
    without = make_plan(spec(), known, priced).estimate.predicted.usd(price)
    planned = plan_probe(declared, known, found, ProbeSpec())
    assert (planned.cost.hours or 0) * found.chosen.layout.gpus * present(price) == planned.cost.usd
    budget = present(without) * 1.05
    limited = replace(priced, budget_usd=budget)
    before = make_plan(spec(**ON), known, limited).estimate
    assert before.predicted.usd(price) == pytest.approx(present(without) + present(planned.cost.usd))
    (line,) = (line for line in before.warnings if line.startswith("beyond the limits: $"))
    assert f", ${planned.cost.usd:,.2f} of it the probe's" in line
    assert not [line for line in make_plan(spec(), known, limited).estimate.warnings if "beyond" in line]
    taken = replace(limited, probed_hours=2 * present(planned.cost.hours))
    result = ProbeResult("lora", 4e-4, "tried", ())
    after = make_plan(spec(**ON), known, taken, result).estimate
    assert after.predicted.probe_hours == taken.probed_hours
    assert any(f"${2 * present(planned.cost.usd):,.2f} of it the probe's" in line for line in after.warnings)


@pytest.mark.slow
def test_a_share_between_one_and_two_trainings_is_spent_on_shorter_ones(small: PlanContext) -> None:
    declared, known, found = surveyed(small, 4000, **ON)
    planned = plan_probe(declared, known, found, ProbeSpec(share=1.5))
    assert not planned.wholly
    assert 1 < planned.share <= 1.5
    assert planned.steps > plan_probe(declared, known, found, ProbeSpec()).steps


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
    assert not [each for each in made.estimate.notes if "obeyed" in each]
    nothing = make_plan(declared, known, small, ProbeResult(None, None, "nothing is tried: why"))
    assert nothing.content.to_json() == before.content.to_json()
    assert "probe: nothing is tried: why; the usual values hold" in nothing.estimate.warnings


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["instruction", "domain_knowledge"])
def test_a_method_that_settings_of_lora_name_was_not_found_by_the_probe_of_its_rates(
    small: PlanContext, objective: str
) -> None:
    declared, known = spec(method={"rank": 8}, objective=objective, **ON), given(small, 400_000)
    without = make_plan(declared, known, small)
    made = make_plan(declared, known, small, conclude([[tried("lora", 6e-4, 1.0)]], None))
    then, now = ({each.field: each for each in plan.estimate.plan.reasons} for plan in (without, made))
    assert now["method.name"] == then["method.name"]
    assert now["method.name"].origin == "built-in"
    assert (now["training.learning_rate"].value, now["training.learning_rate"].origin) == (6e-4, "measured")
    assert [each for each in made.estimate.notes if "obeyed" in each] == [
        each for each in without.estimate.notes if "obeyed" in each
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "said"), [(8, True), (15, True), (16, False)])
def test_few_rows_to_choose_by_are_said(small: PlanContext, rows: int, said: bool) -> None:
    declared, known = spec(), replace(given(small, 400), validation=rows)
    planned = plan_probe(declared, known, survey(declared, known, small), ProbeSpec(share=10))
    assert planned.arms
    assert (f"by {rows} validation rows alone, which may choose by chance" in planned.why) is said
