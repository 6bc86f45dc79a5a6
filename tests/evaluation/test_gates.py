import json
import math

import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.gates import (
    gates_digest,
    judge,
    read_samples,
    to_json,
    verdict_from_json,
    write_samples,
)
from ft_dagster.spec.variant import GatesSpec
from tests.evaluation.questions import sample

GATES = GatesSpec(task_margin=0.02, general_margin=0.05, general_loss_margin=0.1)
OWN = {"role": "own_task", "task": "own_task", "metric": "completion_loss", "higher_is_better": False}
LOSS = {
    "role": "general_loss",
    "task": "general_holdout",
    "metric": "general_loss",
    "higher_is_better": False,
}
TASK = {"role": "task", "task": "exam"}


def column(values, **fields):
    return [sample(number, value, **fields) for number, value in enumerate(values)]


def right(share, count=100):
    return [1.0] * round(share * count) + [0.0] * (count - round(share * count))


FINE = column([1.0, 1.2, 1.4, 1.1], **OWN)


@pytest.mark.parametrize(
    ("base", "tuned", "fields", "passed"),
    [
        ([2.0, 2.0], [1.5, 1.7], OWN, True),
        ([2.0, 2.0], [2.01, 2.02], OWN, True),
        ([2.0, 2.0], [2.5, 2.0], OWN, False),
        (right(0.60), right(0.58), TASK, True),
        (right(0.60), right(0.57), TASK, False),
        (right(0.50), right(0.80), {}, True),
        (right(0.50), right(0.45), {}, True),
        (right(0.50), right(0.44), {}, False),
        ([3.0, 3.2], [3.05, 3.25], LOSS, True),
        ([3.0, 3.2], [3.2, 3.4], LOSS, False),
        ([3.0, 3.2], [math.nan, 3.2], LOSS, False),
    ],
)
def test_a_rule_passes_within_its_margin(base, tuned, fields, passed):
    needed = [] if fields in (OWN, TASK) else FINE
    verdict = judge([*column(base, **fields), *needed], [*column(tuned, **fields), *needed], GATES)
    assert verdict.passed is passed


def test_losses_are_weighted_by_their_tokens():
    base = [sample(0, 2.0, **OWN, weight=90.0), sample(1, 1.0, **OWN, weight=10.0)]
    tuned = [sample(0, 1.9, **OWN, weight=90.0), sample(1, 1.5, **OWN, weight=10.0)]
    rule = judge(base, tuned, GATES).rules[0]
    assert rule.difference == pytest.approx(0.9 * -0.1 + 0.1 * 0.5)
    assert (rule.base, rule.tuned) == pytest.approx((1.9, 1.86))


def test_a_benchmark_is_judged_by_acc_norm_where_it_has_it():
    both = [*column(right(0.5)), *column(right(0.4), metric="acc_norm")]
    assert {r.metric for r in judge([*both, *FINE], [*both, *FINE], GATES).rules} == {
        "acc_norm",
        "completion_loss",
    }


def test_the_task_comes_first_and_every_rule_is_named():
    samples = [*column(right(0.5)), *column([3.0, 3.1], **LOSS), *FINE]
    assert [r.rule for r in judge(samples, samples, GATES).rules] == [
        "task",
        "general_benchmark",
        "general_loss",
    ]


def test_the_interval_holds_the_difference_and_repeats():
    base, tuned = [*column(right(0.6)), *FINE], [*column(right(0.5)[::-1]), *FINE]
    first, second = (judge(base, tuned, GATES).rules[1] for _ in range(2))
    assert first.interval == second.interval
    assert first.interval[0] < first.difference < first.interval[1]


def test_the_sentence_says_what_is_noise():
    before, after = right(0.5, 40), right(0.5, 40)
    after[0], after[39] = 0.0, 1.0  # two answers differ, no net change: 1.96 * sqrt(2) / 40 is 7 points
    rule = judge([*column(before), *FINE], [*column(after), *FINE], GATES).rules[1]
    assert "with 40 questions a difference below about 7.0 points is noise" in rule.sentence


def test_questions_asked_of_one_model_only_are_refused():
    with pytest.raises(UserError, match="1 questions of forms"):
        judge([*column(right(0.5)), *FINE], [*column(right(0.5))[:-1], *FINE], GATES)


def test_a_benchmark_of_one_model_only_is_refused():
    with pytest.raises(UserError, match="tuned model only"):
        judge(FINE, [*column(right(0.5)), *FINE], GATES)


def test_a_verdict_needs_a_task():
    with pytest.raises(UserError, match="nothing was asked of the task"):
        judge(column(right(0.5)), column(right(0.5)), GATES)


def test_a_verdict_survives_json():
    samples = [*column(right(0.5)), *FINE]
    verdict = judge(samples, samples, GATES)
    assert verdict_from_json(json.loads(json.dumps(to_json(verdict)))) == verdict


def test_a_figure_that_is_no_number_is_null_in_json():
    verdict = judge([*column([3.0, 3.0], **LOSS), *FINE], [*column([math.nan, 3.0], **LOSS), *FINE], GATES)
    assert to_json(verdict)["rules"][1]["tuned"] is None
    assert json.dumps(to_json(verdict), allow_nan=False)


def test_a_newer_verdict_is_refused():
    with pytest.raises(UserError, match="newer ft-dagster"):
        verdict_from_json({"schema_version": 99, "passed": True, "rules": []})


def test_the_digest_of_the_gates_follows_the_margins():
    assert gates_digest(GATES) == gates_digest(GatesSpec(**GATES.model_dump()))
    assert gates_digest(GATES) != gates_digest(GATES.model_copy(update={"general_margin": 0.06}))


def test_samples_survive_the_disk(tmp_path):
    samples = [*column(right(0.5)), *FINE]
    write_samples(samples, tmp_path)
    assert read_samples(tmp_path) == samples
