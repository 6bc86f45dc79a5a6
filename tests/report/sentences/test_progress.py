"""How far a program is, in one line."""

from __future__ import annotations

import pytest

from ft_dagster.program import Progress
from ft_dagster.report.sentences.progress import bar, in_words

TRAINING: Progress = {
    "step": 16,
    "total_steps": 64,
    "loss": 1.934,
    "tokens_per_second": 310.2,
    "eta_seconds": 80,
}


def test_a_training_has_step_loss_and_eta() -> None:
    assert in_words(TRAINING) == "step 16 of 64, loss 1.93, ETA 1m 20s"
    assert bar(TRAINING) == "#####--------------- 16/64  loss 1.93  310 tok/s  ETA 1m 20s"


def test_questions_have_their_task() -> None:
    asked: Progress = {"done": 400, "total": 1600, "task": "arc_easy"}
    assert in_words(asked) == "400 of 1,600 questions, arc_easy"
    assert bar(asked) == "#####--------------- 400/1600 questions  arc_easy"


def test_what_is_done_has_no_time_left() -> None:
    asked: Progress = {"done": 39, "total": 39, "task": "done", "eta_seconds": 0.0}
    assert in_words(asked) == "39 of 39 questions"
    assert bar(asked) == "#################### 39/39 questions"
    assert in_words({**TRAINING, "step": 64, "eta_seconds": 0.0}) == "step 64 of 64, loss 1.93"


@pytest.mark.parametrize("unknown", [{}, {"step": 3}, {"done": 0, "total": 0}])
def test_what_is_not_known_is_not_said(unknown: Progress) -> None:
    assert in_words(unknown) == bar(unknown) == ""
