from typing import Any

import pytest

from ft_dagster.data.rendering.call_format import Call, CallsRead
from ft_dagster.data.rows.tool_schemas import schemas_of, why_invalid
from ft_dagster.gate.answer_scores import ANSWER_METRICS, LOWER_IS_BETTER
from ft_dagster.gate.call_scores import call_scores, same_value
from ft_dagster.gate.gates import judge
from ft_dagster.gate.samples import Sample, main_metric
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.report.sentences.result import metric_words
from ft_dagster.spec.variant import GatesSpec

SCHEMAS = schemas_of(
    [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
                    "required": ["city"],
                    "additionalProperties": False,
                },
            },
        },
        {"name": "map", "input_schema": {"type": "object"}},
    ]
)
OSLO, ROME = Call("weather", {"city": "Oslo"}), Call("weather", {"city": "Rome", "days": 2})


def scored(given: tuple[Call, ...], due: tuple[Call, ...], *, ordered: bool = True) -> dict[str, float]:
    return call_scores(CallsRead(given), due, SCHEMAS, ordered=ordered)


@pytest.mark.parametrize(
    ("given", "right", "valid"),
    [
        ((OSLO,), 1, 1),
        ((ROME,), 0, 1),
        ((Call("weather", {"city": "Oslo", "days": 1}),), 0, 1),
        ((Call("weather", {"city": 3}),), 0, 0),
        ((Call("weather", {}),), 0, 0),
        ((Call("forecast", {"city": "Oslo"}),), 0, 0),
        ((OSLO, OSLO), 0, 1),
        ((OSLO, Call("unknown", {})), 0, 0),
        ((), 0, 0),
    ],
)
def test_a_call_is_valid_by_its_schema_and_right_by_the_row(
    given: tuple[Call, ...], right: int, valid: int
) -> None:
    assert scored(given, (OSLO,)) == {"calls_right": right, "calls_valid": valid}


def test_no_call_is_right_where_none_is_due() -> None:
    assert scored((), ()) == {"calls_right": 1, "undue_call": 0}
    assert scored((OSLO,), ()) == {"calls_right": 0, "undue_call": 1}


def test_a_call_that_breaks_off_is_neither_valid_nor_no_call() -> None:
    broken = CallsRead((), broken=True)
    assert call_scores(broken, (OSLO,), SCHEMAS, ordered=True) == {"calls_right": 0, "calls_valid": 0}
    assert call_scores(broken, (), SCHEMAS, ordered=True) == {"calls_right": 0, "undue_call": 1}


def test_the_order_of_calls_is_free_where_that_is_declared() -> None:
    assert scored((ROME, OSLO), (OSLO, ROME))["calls_right"] == 0
    assert scored((ROME, OSLO), (OSLO, ROME), ordered=False)["calls_right"] == 1
    assert scored((ROME, ROME), (OSLO, ROME), ordered=False)["calls_right"] == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        ("1", 1, False),
        (None, False, False),
        ({"a": [1, {"b": 2}]}, {"a": [1.0, {"b": 2}]}, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1, 2], [2, 1], False),
        ({"a": None}, {}, False),
    ],
)
def test_arguments_are_compared_as_json(one: Any, other: Any, same: bool) -> None:
    assert same_value(one, other) is same


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "thing"},
        [],
        {"$ref": "http://example.invalid/schema.json"},
        {"$ref": "#"},
        {"properties": {"city": {"pattern": "("}}},
    ],
)
def test_a_schema_that_cannot_be_used_holds_for_nothing_and_fetches_nothing(schema: Any) -> None:
    assert "the tool's schema cannot be used" in why_invalid("weather", {"city": "Oslo"}, {"weather": schema})


def test_why_a_call_is_invalid_has_no_word_of_the_row() -> None:
    assert (
        why_invalid("weather", {"city": ["secret"]}, SCHEMAS)
        == "its arguments break 'type' of the tool's schema"
    )
    assert why_invalid("secret", {}, SCHEMAS) == "it names no tool of the row"


def samples(right: list[int], valid: list[int], undue: list[int]) -> list[Sample]:
    """Of the last questions no call is due."""

    def of(metric: str, values: list[int], first: int = 0) -> list[Sample]:
        better = metric not in LOWER_IS_BETTER
        return [
            Sample("test_split_task", "test_split_task", metric, f"test_split_task:0:{n}", value, 1, better)
            for n, value in enumerate(values, first)
        ]

    losses = [
        Sample("test_split_task", "test_split_task", "completion_loss", f"test_split_task:0:{n}", 1, 1, False)
        for n in range(len(right))
    ]
    return [
        *losses,
        *of("calls_right", right),
        *of("calls_valid", valid),
        *of("undue_call", undue, len(valid)),
    ]


BASE = samples([0] * 40 + [0] * 12 + [1] * 8, [0] * 36 + [1] * 4, [1] * 12 + [0] * 8)
TUNED = samples([1] * 38 + [0] * 2 + [1] * 19 + [0], [1] * 39 + [0], [0] * 19 + [1])


def rule_of(base: list[Sample], tuned: list[Sample]) -> Rule:
    (rule,) = judge(base, tuned, GatesSpec()).rules
    return rule


def test_calls_are_judged_by_whether_they_are_right_and_each_part_is_said_beside() -> None:
    rule = rule_of(BASE, TUNED)
    assert (rule.metric, rule.outcome, rule.questions) == ("calls_right", "pass", 60)
    valid, undue = rule.parts
    assert (valid.metric, valid.base, valid.tuned, valid.questions) == ("calls_valid", 0.1, 0.975, 40)
    assert (undue.metric, undue.base, undue.tuned, undue.questions) == ("undue_call", 0.6, 0.05, 20)
    assert 0 < valid.interval[0] < 0.875 < valid.interval[1]
    assert undue.interval[0] < -0.55 < undue.interval[1] < 0
    assert "valid calls where some are due 10.0% → 97.5% on 40 questions (+" in rule.sentence
    assert "a call where none is due 60.0% → 5.0% on 20 questions (-" in rule.sentence


def test_a_model_that_calls_where_none_is_due_fails() -> None:
    worse = samples([0] * 60, [0] * 40, [1] * 20)
    rule = rule_of(TUNED, worse)
    assert rule.outcome == "fail"
    assert rule.parts[1].tuned == 1


def test_a_part_that_no_row_has_is_left_out() -> None:
    base, tuned = samples([0] * 40, [0] * 40, []), samples([1] * 40, [1] * 40, [])
    assert [part.metric for part in rule_of(base, tuned).parts] == ["calls_valid"]


def test_the_parts_are_stored_with_a_verdict_and_read_back() -> None:
    verdict = judge(BASE, TUNED, GatesSpec())
    stored = verdict.to_json()
    assert stored["schema_version"] == 6
    assert Verdict.from_json(stored) == verdict


def test_a_verdict_without_calls_is_stored_as_before() -> None:
    plain = [sample for sample in BASE if sample.metric == "calls_valid"]
    stored = judge(plain, plain, GatesSpec(task_margin=0.5)).to_json()
    assert stored["schema_version"] == 3
    assert "parts" not in stored["rules"][0]


def test_each_score_of_calls_has_words() -> None:
    metrics = ANSWER_METRICS["tool_calls"]
    assert main_metric(["completion_loss", *metrics]) == "calls_right"
    assert all(
        "_" not in metric_words(metric) and metric_words(metric) != metric.replace("_", " ")
        for metric in metrics
    )
