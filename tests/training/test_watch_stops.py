"""A stop for a fall of the benchmark: its level over all looks, its cost, and what is drawn of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gates_watch import FAMILIES, stopped_at
from ft_dagster.evaluation.models.model import PROBE
from ft_dagster.evaluation.tasks.tasks import tasks_digest
from ft_dagster.gate.level import ALPHA
from ft_dagster.report.charts.svg import curves
from ft_dagster.report.sentences.progress import bar, in_words
from ft_dagster.report.training import RIGHT, asked
from ft_dagster.training.contract import Benchmarks
from ft_dagster.training.journal import Journal
from ft_dagster.training.watch.falls import fall_of
from ft_dagster.training.watch.forgetting import Benchmark
from tests.evaluation.questions import write_task
from tests.present import present

TRIALS = 400


@pytest.mark.parametrize("family", FAMILIES, ids=lambda each: each.name)
@pytest.mark.parametrize("looks", [5, 20])
def test_a_model_that_does_not_change_is_stopped_at_most_at_the_level_over_all_looks(
    family: Any, looks: int
) -> None:
    noise = 3 * math.sqrt(ALPHA * (1 - ALPHA) / TRIALS)
    for questions in (20, 100):
        now, _ = stopped_at(family, questions, looks, trials=TRIALS)
        assert (now > 0).mean() <= ALPHA + noise


def test_the_measured_fall_alone_would_stop_many_that_do_not_change() -> None:
    now, then = stopped_at(FAMILIES[3], 20, 20, trials=TRIALS)
    assert (then > 0).mean() > 0.7
    assert (now > 0).mean() < 0.1


def test_a_large_fall_of_enough_questions_is_stopped() -> None:
    now, _ = stopped_at(FAMILIES[1], 100, 20, fall=0.2, trials=TRIALS)
    assert (now > 0).mean() > 0.9


@pytest.mark.slow
def test_asking_costs_the_tokens_that_the_budget_was_told(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Counted in the model: each text once for all its answers, whatever a clock says."""
    from transformers import AutoModelForCausalLM

    write_task(tmp_path, "forms")
    tasks = Benchmarks(tasks=tasks_digest(["forms.yaml"], tmp_path), project=tmp_path, seed=3)
    benchmark = Benchmark(tasks, 12, tiny_model_folder, tmp_path / "output")
    model, counted = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32), list[int]()
    model.get_input_embeddings().register_forward_hook(lambda _, given, __: counted.append(given[0].numel()))
    benchmark.ask(model)
    first = sum(counted)
    benchmark.ask(model)
    later = sum(counted) - first
    probe = len(benchmark._tokenizer(PROBE)["input_ids"])
    assert (
        0 < later - 2 * probe <= 1.1 * benchmark.work.slots
    )  # twice, of how the model is built, at each look
    assert later < first <= later + 7 * probe  # at the first, whether answers may share their question's pass
    benchmark.ask(model)
    assert sum(counted) == first + 2 * later


def test_the_questions_are_drawn_beside_the_base_s_level() -> None:
    log: list[dict[str, Any]] = [
        {"step": 0, "benchmark": {"mean": 0.5, "a": 0.5}},
        {"step": 5, "loss": 2.0},
        {"step": 10, "benchmark": {"mean": 0.4, "a": 0.4}},
    ]
    assert asked(log) == {"general questions": [(0, 0.5), (10, 0.4)], "the base": [(0, 0.5), (10, 0.5)]}
    assert "share right, steps 0 to 10" in curves(asked(log), RIGHT)
    assert asked(log[:2]) == {}


def test_what_runs_says_the_questions_beside_its_loss() -> None:
    running: Any = {"step": 10, "total_steps": 40, "loss": 1.5, "questions_right": 0.4, "base_right": 0.5}
    for said in (bar(running), in_words(running)):
        assert "general questions 40% right (base 50%)" in said


def test_a_resumed_training_has_the_answers_and_the_level_of_the_one_before(tmp_path: Path) -> None:
    right = [[1.0] * 30 + [0.0] * 10, [1.0] * 16 + [0.0] * 24]
    looks = [
        {"step": 10 * n, "benchmark": {"mean": sum(each) / 40, "answers": {"a": each}}}
        for n, each in enumerate(right)
    ]
    journal = Journal([1], observations=list(looks))
    journal.save(tmp_path)
    before, after = (fall_of(each.observations, 10) for each in (journal, Journal.load(tmp_path)))
    assert before == after
    assert present(after).p == pytest.approx(2**-14)
