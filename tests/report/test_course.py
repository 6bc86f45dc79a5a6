"""What a training learned against what it forgot, as a picture and in words."""

from __future__ import annotations

import base64
from typing import Any
from xml.etree import ElementTree

import pytest

from ft_dagster.report.charts.report_charts import course_chart
from ft_dagster.report.charts.svg import BLUE, LOOKS, ORANGE, RED, fitting, trade_off
from ft_dagster.report.training import WINDOWS, Course, course_of, smoothed
from ft_dagster.training.training_figures import TrainingFigures
from tests.present import present
from tests.stored_figures import stored_training

SVG = "{http://www.w3.org/2000/svg}"
LOG: list[dict[str, Any]] = [
    {"step": 0, "validation_loss": 4.0},
    {"step": 0, "general_holdout_loss": 3.0},
    {"step": 1, "loss": 3.5},
    {"step": 15, "validation_loss": 2.5},  # of this look general text was not measured
    {"step": 30, "validation_loss": 2.0},
    {"step": 30, "general_holdout_loss": 3.125, "exported": True},
    {"step": 40, "validation_loss": 1.75, "general_holdout_loss": None},
    {"step": 40, "general_holdout_loss": 3.5},
]


def figures(**changes: Any) -> TrainingFigures:
    return TrainingFigures.from_json(stored_training(**changes))


def drawn(course: Course) -> ElementTree.Element:
    """The picture of Dagster's page, parsed."""
    picture = present(fitting(lambda one: trade_off(one[0]), [course], "learning against forgetting"))
    return ElementTree.fromstring(base64.b64decode(picture.partition("base64,")[2].removesuffix(")")))


def colours(svg: ElementTree.Element) -> list[str]:
    return [path.get("stroke", "") for path in svg.iter(f"{SVG}path")]


def test_it_has_the_looks_that_measured_both_and_says_which_was_exported() -> None:
    course = present(course_of(LOG, figures(general_loss_limit=0.25)))
    assert course.looks == {0: (3.0, 4.0), 30: (3.125, 2.0), 40: (3.5, 1.75)}
    assert course.sentence == (
        "Validation loss and loss on watched general text at 3 looks: 4.000 and 3.000 at step 0, "
        "2.000 and 3.125 at step 30 (exported), 1.750 and 3.500 at step 40; the limit of the latter is 3.250"
    )
    svg = drawn(course)
    assert {BLUE, ORANGE, RED} <= set(colours(svg))
    (dots,) = [path.get("d", "") for path in svg.iter(f"{SVG}path") if path.get("stroke") == BLUE]
    assert dots == "M40 6h0M76 74h0M184 82h0"  # losses: of the task upwards, of general text to the right
    words = [text.text for text in svg.iter(f"{SVG}text")]
    assert words[2:] == ["4", "1.75", "task", "3 general loss, nats a token 3.5"]
    chart = ElementTree.fromstring(course_chart(course))
    said = [title.text for title in chart.iter(f"{SVG}title")]
    assert said[0] == "limit: 3.250"
    assert "2.000 and 3.125 at step 30 (exported)" in said
    assert len(said) == 1 + len(course.looks)


def test_where_no_limit_is_declared_no_line_is_drawn() -> None:
    course = present(course_of(LOG, figures()))
    assert "limit" not in course.sentence
    assert RED not in colours(drawn(course))
    assert RED not in course_chart(course)


@pytest.mark.parametrize("log", [[], LOG[:2], LOG[2:6], [*LOG[:2], *LOG[6:]]])
def test_of_fewer_than_two_looks_or_without_the_exported_one_there_is_none(log: list[dict[str, Any]]) -> None:
    assert course_of(log, figures()) is None
    assert course_chart(None) == ""


def test_many_looks_stay_inline_and_the_exported_one_is_among_them() -> None:
    many = {10 * n: (3.0 + n / 100, 4.0 - n / 50) for n in range(100)}
    svg = drawn(Course(many, 310, 3.9))
    (dots,) = [path.get("d", "") for path in svg.iter(f"{SVG}path") if path.get("stroke") == BLUE]
    assert dots.count("M") == LOOKS
    assert colours(svg).count(ORANGE) == 1
    assert course_chart(Course(many, 310, None)).count("<circle") == 100


def test_losses_that_do_not_move_are_drawn() -> None:
    assert drawn(Course({0: (3.0, 4.0), 9: (3.0, 4.0)}, 9, None)) is not None


def test_the_curve_of_the_steps_is_a_mean_by_tokens_so_that_sources_in_turn_do_not_hide_it() -> None:
    log = [
        {"step": n, "loss": 1.0 if n % 2 else 4.0, "trained_tokens": 3 if n % 2 else 1} for n in range(1, 161)
    ]
    found = smoothed([*log, {"step": 0, "validation_loss": 4.0}])
    assert found["validation"] == [(0, 4.0)]
    curve = found["training, mean of 4 steps"]
    assert [step for step, _ in curve] == list(range(4, 161, 4))
    assert {loss for _, loss in curve} == {1.75}
    assert smoothed(log[:WINDOWS]) == {"training": [(row["step"], row["loss"]) for row in log[:WINDOWS]]}
