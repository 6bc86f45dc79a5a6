"""Samples as version 0.1 stored them: their names of today, and nobody else's names."""

from __future__ import annotations

from pathlib import Path

from ft_dagster.gate.samples import read_samples, write_samples
from tests.evaluation.questions import sample


def test_the_task_of_the_test_split_is_read_under_its_name_of_today(tmp_path: Path) -> None:
    write_samples([sample(0, 1.0, role="own_task", task="own_task")], tmp_path)
    (read,) = read_samples(tmp_path)
    assert (read.role, read.task) == ("test_split_task", "test_split_task")


def test_a_benchmark_of_that_name_keeps_it(tmp_path: Path) -> None:
    write_samples([sample(0, 1.0, role="general", task="own_task")], tmp_path)
    (read,) = read_samples(tmp_path)
    assert (read.role, read.task) == ("general", "own_task")
