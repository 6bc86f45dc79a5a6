"""Compares what a plan estimated of a training with what it took."""

from __future__ import annotations

from ft_dagster.report.training import estimated_rows, figure_rows
from ft_dagster.training.training_figures import TrainingFigures
from tests.stored_figures import stored_training

ESTIMATED = {"hours": 0.5, "memory_bytes": 2_000_000_000}


def test_the_program_stands_beside_its_steps_and_looks_as_estimated() -> None:
    predicted = {**ESTIMATED, "training_hours": 0.025}
    figures = TrainingFigures.from_json(stored_training(predicted=predicted))
    assert estimated_rows(figures)[0] == ["time of the training", "1m 30s", "2m 00s"]
    assert len(estimated_rows(figures)) == 2


def test_of_a_plan_of_0_1_that_knew_the_whole_alone_no_steps_are_estimated() -> None:
    figures = TrainingFigures.from_json(stored_training(predicted=ESTIMATED))
    assert estimated_rows(figures)[:2] == [
        ["time of the training", "-", "2m 00s"],
        ["training and judging", "30m 00s", "-"],
    ]
    assert estimated_rows(TrainingFigures.from_json(stored_training())) == []


def test_tokens_of_shared_beginnings_are_a_row_where_there_are_any() -> None:
    shared, whole = (
        [row[:2] for row in figure_rows(TrainingFigures.from_json(stored_training(**said)))]
        for said in ({"shared_tokens": 12_000}, {})
    )
    added = ["beginnings in common", "12,000 tokens not computed again for another example"]
    assert [row for row in shared if row not in whole] == [added]
