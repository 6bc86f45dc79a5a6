"""The ablations of alpha and dropout: which trainings are the same one, and what their tables are made of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import lora_settings
from benchmarks.decision_regret import BASE, Measured, Question
from benchmarks.decisions import Bench
from benchmarks.lora_settings import Tried, asked
from ft_dagster.program import write_json
from tests.training.runs import LORA, TRAINING


@pytest.fixture
def question() -> Question:
    method = {**LORA, "rank": 16, "alpha": 32.0, "dropout": 0.05}
    plan = {"method": method, "training": {**TRAINING, "learning_rate": 6e-4}}
    given: dict[str, Any] = {
        "task": "labels", "objective": "instruction", "seed": 0, "base": "b", "base_digest": "b" * 64,
        "mixture": "m", "mixture_digest": "m" * 64, "unseen": "u", "unseen_digest": "u" * 64,
        "plans": {"lora": plan}, "auto": None, "limit": 0.1,
        "probes": {},
    }  # fmt: skip
    return Question(**given)


def keep(bench: Bench, question: Question, tried: Tried | None, loss: float, general: float) -> None:
    losses = {"chosen_on": (loss, 9), "scored_on": (loss + 1, 9), "general": (general, 9)}
    one, cell = (question, BASE) if tried is None else asked(question, tried)
    found = Measured("labels", 0, "lora", 6e-4, None, 60, losses, None, 1e12, 10.0, 2.0)
    write_json(bench.file(one, cell), asdict(found))


def test_each_scaling_and_rate_is_a_training_of_its_own_and_the_plans_own_is_the_grids(
    question: Question, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, tmp_path)
    tried = [*lora_settings.of_alpha()]
    assert len({bench.file(*asked(question, each)) for each in tried}) == len(tried) == 14
    rates = {asked(question, each)[1].arm.learning_rate for each in tried}
    assert rates == {6e-4, 2e-4}
    usual = lora_settings.with_dropout(lora_settings.DROPOUT)
    assert bench.file(*asked(question, usual)) == bench.file(*asked(question, Tried({}, usual.rate)))


def test_a_row_of_alpha_has_the_mean_loss_and_the_rise_of_general_loss(
    question: Question, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, tmp_path)
    tried = Tried(lora_settings.alphas(4)[1], 2e-4)
    keep(bench, question, tried, 2.0, 3.2)
    assert "| 4 |" not in lora_settings.alpha_table(bench, [question])
    keep(bench, question, None, 9.0, 3.0)
    assert "| 4 | alpha = 32 | 0.0002 | 2.500 (+0.200) |" in lora_settings.alpha_table(bench, [question])


def test_dropout_is_compared_by_question(question: Question, tmp_path: Path) -> None:
    bench = Bench(tmp_path, tmp_path)
    keep(bench, question, None, 9.0, 3.0)
    keep(bench, question, lora_settings.with_dropout(0.0), 2.0, 3.1)
    assert "labels" not in lora_settings.dropout_table(bench, [question])
    keep(bench, question, lora_settings.with_dropout(0.05), 1.5, 3.0)
    said = lora_settings.dropout_table(bench, [question])
    assert "| labels | 1 | 2.500 | 2.000 | -20.0% | -0.100 |" in said
    assert "-20.0% (1 better with it)" in said
