import json
import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ft_dagster.errors import UserError
from ft_dagster.gate.gates import gates_digest, judge, regression, with_rules
from ft_dagster.gate.refused_metrics import check_metrics
from ft_dagster.gate.samples import Sample, read_samples, write_samples
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.spec.variant import GatesSpec
from tests.evaluation.questions import sample
from tests.present import present

GATES = GatesSpec(task_margin=0.02, general_margin=0.05, general_loss_margin=0.1, loss_tail=0.1)
OWN: dict[str, Any] = {
    "role": "test_split_task",
    "task": "test_split_task",
    "metric": "completion_loss",
    "higher_is_better": False,
}
LOSS: dict[str, Any] = {
    "role": "general_loss",
    "task": "general_holdout",
    "metric": "general_loss",
    "higher_is_better": False,
}
TASK: dict[str, Any] = {"role": "task", "task": "exam"}
Pair = tuple[list[float], list[float]]


def column(values: Iterable[float], **fields: Any) -> list[Sample]:
    return [
        sample(number, value, **{"question": f"forms:{number}:{number:04x}", **fields})
        for number, value in enumerate(values)
    ]


def answers(count: int, lost: int = 0, gained: int = 0) -> Pair:
    """(base, tuned): right or wrong in turns, but for so many that were lost and gained."""
    base = [float(number % 2) for number in range(count)]
    right, wrong = [n for n in range(count) if base[n]], [n for n in range(count) if not base[n]]
    tuned = list(base)
    for number in (*right[:lost], *wrong[:gained]):
        tuned[number] = 1 - tuned[number]
    return base, tuned


def losses(rise: float, noise: float = 0.05, count: int = 40) -> Pair:
    """(base, tuned): losses of texts that rise by about so much."""
    draw = np.random.default_rng(5)
    base = draw.normal(3.0, 0.3, count)
    return base.tolist(), (base + draw.normal(rise, noise, count)).tolist()


BETTER = losses(-0.5)
FINE = column(BETTER[0], **OWN), column(BETTER[1], **OWN)


def judged(pair: Pair, gates: GatesSpec = GATES, **fields: Any) -> Rule:
    """The rule for one task, judged beside an own task that got better."""
    task = fields.get("role") in ("task", "test_split_task")
    base, tuned = ([] if task else side for side in FINE)
    verdict = judge([*column(pair[0], **fields), *base], [*column(pair[1], **fields), *tuned], gates)
    (rule,) = [rule for rule in verdict.rules if task or rule.task != "test_split_task"]
    return rule


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pair", "fields", "outcome"),
    [
        (losses(-0.5), OWN, "pass"),
        (losses(0.0, noise=0.001, count=400), OWN, "pass"),
        (losses(0.0, noise=0.001), OWN, "undecided"),
        (losses(0.1), OWN, "fail"),
        (losses(0.02, noise=0.2), OWN, "undecided"),
        (answers(400, lost=2, gained=10), TASK, "pass"),
        (answers(400, lost=40, gained=4), TASK, "fail"),
        (answers(400, lost=20, gained=20), TASK, "undecided"),
        (answers(72), {}, "pass"),
        (answers(71), {}, "undecided"),
        (answers(400, lost=15, gained=15), {}, "pass"),
        (answers(40), {}, "undecided"),
        (answers(100, lost=9), {}, "fail"),
        (answers(100, lost=8, gained=4), {}, "undecided"),
        (losses(0.0, count=100), LOSS, "pass"),
        (losses(0.0), LOSS, "undecided"),
        (losses(0.2), LOSS, "fail"),
        (losses(0.09, noise=0.3), LOSS, "undecided"),
        (([3.0, 3.2], [math.nan, 3.2]), LOSS, "fail"),
        (([3.0], [3.0]), LOSS, "undecided"),
    ],
)
def test_a_rule_passes_fails_or_cannot_be_decided(pair: Pair, fields: dict[str, Any], outcome: str) -> None:
    rule = judged(pair, **fields)
    assert rule.outcome == outcome
    assert rule.passed is (outcome == "pass")


def test_a_fall_that_is_real_and_within_the_margin_passes() -> None:
    rule = judged(losses(0.05, noise=0.02, count=200), **LOSS)
    assert rule.harm < 0.001
    assert rule.outcome == "pass"


def test_a_task_without_a_margin_must_be_shown_to_be_better() -> None:
    gates = GATES.model_copy(update={"task_margin": 0.0})
    assert judged(answers(400, gained=12), gates, **TASK).outcome == "pass"
    unmoved = judged(answers(400), gates, **TASK)
    assert (unmoved.outcome, unmoved.needed) == ("undecided", None)
    assert "not shown to be better" in unmoved.sentence


def test_the_level_is_the_declared_one() -> None:
    pair = answers(100, lost=9)
    assert judged(pair, GATES.model_copy(update={"alpha": 0.001})).outcome == "undecided"
    assert judged(pair).confidence == pytest.approx(0.95)  # half of alpha, the share of a first try


def test_harm_is_adjusted_for_the_number_of_rules() -> None:
    """6 lost of 6 that differ have p = 1/64, which two rules make 1/32 and four make 1/16."""
    assert judged(answers(100, lost=6)).harm == pytest.approx(1 / 32)
    one, other = (column(side) for side in answers(100, lost=6))
    more = [column(answers(100)[0], task=name) for name in ("a", "b")]
    several = judge([*one, *FINE[0], *more[0], *more[1]], [*other, *FINE[1], *more[0], *more[1]], GATES)
    (rule,) = [rule for rule in several.rules if rule.task == "forms"]
    assert rule.harm == pytest.approx(4 / 64)
    assert rule.outcome == "undecided"


@pytest.mark.slow
def test_benchmarks_that_a_tenant_adds_do_not_dilute_what_everybody_is_asked() -> None:
    """6 lost of 6 that differ, beside the task, and beside fifty benchmarks of the tenant's own."""
    fallen, names = answers(100, lost=6), [f"mine_{n}" for n in range(50)]
    added = [each for name in names for each in column(answers(100)[0], task=name)]
    base, tuned = ([*column(side), *mine, *added] for side, mine in zip(fallen, FINE, strict=True))
    measured = GATES.model_copy(update={"undecided": "measured", "general_margin": 0.1})

    def forms(own: Collection[str]) -> Rule:
        rules = judge(base, tuned, measured, own=own).rules
        assert len(rules) == 52
        return next(rule for rule in rules if rule.task == "forms")

    assert forms(names).harm == pytest.approx(2 / 64)
    assert (forms(names).outcome, forms(names).passed) == ("fail", False)
    assert (forms(()).outcome, forms(()).passed) == ("undecided", True)


def test_what_a_tenant_adds_is_adjusted_by_itself_against_production_too() -> None:
    pair, own = answers(100, lost=6), ("mine", "other")
    base, tuned = (
        [*column(side), *column(side, task="mine"), *column(pair[0], task="other")] for side in pair
    )
    verdict = judge([*base, *FINE[0]], [*tuned, *FINE[1]], GATES, own=own)
    more = regression([*base, *FINE[1]], [*tuned, *FINE[1]], GATES, version=1, own=own)
    harms = {
        (rule.rule, rule.task): rule.harm
        for rule in with_rules(verdict, more, GATES, own).rules
        if rule.task in ("forms", "mine")
    }
    assert harms == pytest.approx(dict.fromkeys(harms, 4 / 64))  # of four rules each
    assert len(harms) == 4


def test_a_change_that_is_the_margin_to_the_last_digit_is_judged() -> None:
    """What is left to be shown is a rounding: no number of questions shows that."""
    base = [0.5] * 100
    rule = judged((base, [0.45000000000000001] * 100), metric="json_f1")
    assert (rule.outcome, rule.needed) == ("fail", None)


def test_an_undecided_rule_says_how_many_questions_would_decide() -> None:
    rule = judged(answers(40, lost=2, gained=2))
    assert present(rule.needed) > 40
    assert f"about {rule.needed:,} questions would decide" in rule.sentence


def test_a_difference_far_from_the_margin_needs_fewer_questions_than_one_near_it() -> None:
    near, far = (judged(answers(40, lost=lost, gained=2)) for lost in (3, 2))
    assert {near.outcome, far.outcome} == {"undecided"}
    assert present(near.needed) > present(far.needed)


def test_the_sentence_says_what_could_not_be_seen() -> None:
    rule = judged(answers(100, lost=4, gained=4))
    assert rule.seen == pytest.approx(0.094, abs=0.001)
    assert "with 100 questions this cannot see a fall below 9.4 points" in rule.sentence


def test_undecided_counts_as_measured_where_that_is_declared() -> None:
    gates = GATES.model_copy(update={"undecided": "measured"})
    within, beyond = judged(answers(40, lost=2), gates), judged(answers(40, lost=4), gates)
    assert (within.outcome, within.passed, beyond.outcome, beyond.passed) == (
        *("undecided", True),
        *("undecided", False),
    )
    assert "gates.undecided" in within.sentence
    assert judged(answers(100, lost=9), gates).passed is False


def test_the_verdict_is_the_worst_of_its_rules() -> None:
    assert judge(*FINE, GATES).outcome == "pass"
    for pair, outcome in ((answers(40), "undecided"), (answers(100, lost=9), "fail")):
        base, tuned = (
            [*column(side), *column(answers(40)[0], task="x"), *own]
            for side, own in zip(pair, FINE, strict=True)
        )
        verdict = judge(base, tuned, GATES)
        assert (verdict.outcome, verdict.passed) == (outcome, False)


def test_each_text_counts_alike_whatever_its_tokens() -> None:
    base = [sample(0, 2.0, **OWN, weight=90.0), sample(1, 1.0, **OWN, weight=10.0)]
    tuned = [sample(0, 1.9, **OWN, weight=90.0), sample(1, 1.5, **OWN, weight=10.0)]
    rule = judge(base, tuned, GATES).rules[0]
    assert rule.difference == pytest.approx(0.2)
    assert (rule.base, rule.tuned) == pytest.approx((1.5, 1.7))


def test_a_benchmark_is_judged_by_acc_norm_where_it_has_it() -> None:
    both = [*column(answers(40)[0]), *column(answers(40)[0], metric="acc_norm"), *FINE[0]]
    assert {r.metric for r in judge(both, both, GATES).rules} == {"acc_norm", "completion_loss"}


def test_a_task_is_judged_by_the_metric_that_the_gates_name() -> None:
    both = [*column(answers(40)[0]), *column(answers(40)[0], metric="acc_norm"), *FINE[0]]
    gates = GATES.model_copy(update={"metrics": {"forms": "acc"}})
    assert {r.metric for r in judge(both, both, gates).rules} == {"acc", "completion_loss"}


def test_a_gate_on_a_metric_that_the_task_does_not_have_names_those_it_has() -> None:
    gates = GATES.model_copy(update={"metrics": {"forms": "bleu"}})
    with pytest.raises(UserError) as error:
        check_metrics([*column([1.0]), *column([1.0], metric="acc_norm")], gates, "acme.yaml")
    said = error.value.as_dict()
    assert (said["file"], said["field"], said["value"]) == ("acme.yaml", "gates.metrics.forms", "'bleu'")
    assert said["fix"] == "It has: acc, acc_norm"


def test_a_gate_on_a_task_that_is_not_asked_names_those_that_are() -> None:
    gates = GATES.model_copy(update={"metrics": {"mmlu": "acc"}})
    with pytest.raises(
        UserError, match=r"no such task is asked \(got 'mmlu'\)\. Asked are: forms\. Name one"
    ):
        judge(column([1.0]), column([1.0]), gates)
    misspelt = GATES.model_copy(update={"metrics": {"form": "acc"}})
    with pytest.raises(UserError, match=r"metrics\.form: no such task .*\(got 'form'\)\. Did you mean forms"):
        judge(column([1.0]), column([1.0]), misspelt)


def test_the_task_comes_first_and_every_rule_is_named() -> None:
    samples = [*column(answers(40)[0]), *column([3.0, 3.1], **LOSS), *FINE[0]]
    assert [r.rule for r in judge(samples, samples, GATES).rules] == [
        "task",
        "general_benchmark",
        "general_loss",
    ]


def test_the_interval_holds_the_difference_whichever_way_is_better() -> None:
    for rule in (judged(answers(100, lost=9, gained=3)), judged(losses(0.05), **LOSS)):
        assert rule.interval[0] < rule.difference < rule.interval[1]


def test_a_model_that_is_to_know_a_domain_does_not_pass_by_its_loss_alone() -> None:
    measured = GATES.model_copy(update={"undecided": "measured"})
    verdict = judge(*FINE, measured, objective="domain_knowledge")
    assert (verdict.passed, verdict.outcome) == (False, "undecided")
    assert "factual questions of the domain" in verdict.rules[0].sentence
    base, tuned = (column(side, **TASK) for side in answers(400, gained=30))
    assert judge(base, tuned, GATES, objective="domain_knowledge").passed


FACTS: dict[str, Any] = {"role": "task", "task": "facts"}


@pytest.mark.parametrize("undecided", ["fail", "measured"])
def test_facts_that_fall_are_not_released_whatever_margin_is_declared(undecided: str) -> None:
    """2 of 400 lost lie within 5 points, and a model that is to know a domain knows less than its base."""
    gates = GATES.model_copy(update={"task_margin": 0.05, "undecided": undecided})
    base, fallen = (column(side, **FACTS) for side in answers(400, lost=2))
    assert judge(base, fallen, gates).passed
    verdict = judge(base, fallen, gates, objective="domain_knowledge")
    assert (verdict.passed, verdict.outcome, verdict.rules[0].needed) == (False, "undecided", None)
    assert "facts that fell are not released under objective domain_knowledge" in verdict.rules[0].sentence
    assert judge(base, base, gates, objective="domain_knowledge").passed


def test_facts_that_are_shown_to_fall_fail() -> None:
    gates = GATES.model_copy(update={"task_margin": 0.05})
    base, fallen = (column(side, **FACTS) for side in answers(400, lost=10))
    assert judge(base, fallen, gates).passed
    (rule,) = judge(base, fallen, gates, objective="domain_knowledge").rules
    assert (rule.passed, rule.outcome) == (False, "fail")
    assert "a fall that chance does not explain" in rule.sentence


def test_one_set_of_facts_that_fell_holds_back_the_others() -> None:
    gates = GATES.model_copy(update={"task_margin": 0.05})
    learned, lost = answers(400, gained=30), answers(400, lost=2)
    base, tuned = (
        [*column(one, **FACTS), *column(other, role="task", task="others")]
        for one, other in zip(learned, lost, strict=True)
    )
    verdict = judge(base, tuned, gates, objective="domain_knowledge")
    assert {rule.task: rule.passed for rule in verdict.rules} == {"facts": True, "others": False}


def test_a_model_worse_than_production_is_a_regression() -> None:
    (rule,) = regression(FINE[1], FINE[0], GATES, version=3)
    assert (rule.rule, rule.outcome, rule.passed) == ("regression", "fail", False)
    assert rule.sentence.startswith("against version 3 in production, the task test_split_task")


def test_a_model_as_good_as_production_is_none_though_it_is_not_better() -> None:
    same = column(losses(0.0, count=80)[0], **OWN)
    (rule,) = regression(same, same, GATES.model_copy(update={"task_margin": 0.0}), version=3)
    assert rule.passed


def test_only_questions_that_both_were_asked_are_compared() -> None:
    before = column(answers(80)[0], **TASK)
    (rule,) = regression(before, before[20:], GATES, version=1)
    assert rule.questions == 60


def test_a_task_of_which_no_question_is_shared_is_undecided() -> None:
    other = [s._replace(question=f"{s.question}x") for s in FINE[1]]
    (rule,) = regression(FINE[1], other, GATES, version=1)
    assert (rule.outcome, rule.passed, rule.questions) == ("undecided", False, 0)
    verdict = with_rules(judge(FINE[0], FINE[1], GATES), [rule], GATES)
    assert verdict.passed is False
    assert json.dumps(verdict.to_json(), allow_nan=False)


def test_a_benchmark_that_production_was_not_asked_is_left_out() -> None:
    tuned = [*FINE[1], *column(answers(40)[0])]
    assert [rule.task for rule in regression(FINE[1], tuned, GATES, version=1)] == ["test_split_task"]


def test_without_a_margin_for_it_production_is_not_compared() -> None:
    assert regression(FINE[1], FINE[0], GATES.model_copy(update={"regression_margin": None}), version=1) == ()


def test_questions_asked_of_one_model_only_are_refused() -> None:
    half = column(answers(40)[0])
    with pytest.raises(UserError, match="1 questions of forms"):
        judge([*half, *FINE[0]], [*half[:-1], *FINE[1]], GATES)


def test_a_benchmark_of_one_model_only_is_refused() -> None:
    with pytest.raises(UserError, match="tuned model only"):
        judge(FINE[0], [*column(answers(40)[0]), *FINE[1]], GATES)


def test_a_verdict_needs_a_task() -> None:
    with pytest.raises(UserError, match="nothing was asked of the task"):
        judge(column(answers(40)[0]), column(answers(40)[0]), GATES)


def test_a_verdict_survives_json() -> None:
    verdict = judge([*column(answers(40)[0]), *FINE[0]], [*column(answers(40)[1]), *FINE[1]], GATES)
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def test_a_verdict_of_the_first_schema_is_read() -> None:
    rule = {
        "rule": "task", "task": "exam", "metric": "acc", "base": 0.5, "tuned": 0.6, "difference": 0.1,
        "interval": [0.0, 0.2], "margin": 0.0, "questions": 40, "higher_is_better": True, "passed": True,
        "sentence": "within the margin",
    }  # fmt: skip
    verdict = Verdict.from_json({"schema_version": 1, "passed": True, "rules": [rule]})
    assert (verdict.outcome, verdict.rules[0].outcome, verdict.rules[0].confidence) == ("pass", "pass", 0.95)
    failed = {"schema_version": 1, "passed": False, "rules": [{**rule, "passed": False}]}
    assert Verdict.from_json(failed).rules[0].outcome == "fail"


def test_a_figure_that_is_no_number_is_null_in_json() -> None:
    verdict = judge(
        [*column([3.0, 3.0], **LOSS), *FINE[0]], [*column([math.nan, 3.0], **LOSS), *FINE[1]], GATES
    )
    assert verdict.to_json()["rules"][1]["tuned"] is None
    assert json.dumps(verdict.to_json(), allow_nan=False)


def test_a_newer_verdict_is_refused() -> None:
    with pytest.raises(UserError, match="newer ft-dagster"):
        Verdict.from_json({"schema_version": 99, "passed": True, "rules": []})


def test_the_digest_of_the_gates_follows_the_margins() -> None:
    assert gates_digest(GATES) == gates_digest(GatesSpec(**GATES.model_dump()))
    assert gates_digest(GATES) != gates_digest(GATES.model_copy(update={"general_margin": 0.06}))


def test_samples_survive_the_disk(tmp_path: Path) -> None:
    samples = [*column(answers(40)[0]), *FINE[0]]
    write_samples(samples, tmp_path)
    assert read_samples(tmp_path) == samples


def test_a_gate_on_the_test_split_by_its_former_name_holds_as_before() -> None:
    tuned, base = ([sample(n, value, **OWN) for n in range(8)] for value in (1.0, 2.0))
    gates = GatesSpec(metrics={"own_task": "completion_loss"}, undecided="measured")
    check_metrics(tuned, gates, "acme.yaml")
    assert [rule.metric for rule in judge(base, tuned, gates).rules] == ["completion_loss"]
