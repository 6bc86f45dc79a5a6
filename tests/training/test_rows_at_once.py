"""A measurement makes whole logits, so fewer rows of it may go at once than of a step."""

from __future__ import annotations

import pytest

from ft_dagster.training.watch import held_out
from tests.training.runs import Runs, losses, result_of, train


@pytest.mark.parametrize(
    ("micro_batch", "length", "vocabulary", "expected"),
    [(8, 4096, 152_064, 1), (1, 4096, 152_064, 1), (16, 512, 49_152, 16), (4, 32_768, 262_144, 1)],
)
def test_rows_of_a_measurement_are_bounded_by_the_bytes_of_their_logits(
    micro_batch: int, length: int, vocabulary: int, expected: int
) -> None:
    assert held_out.rows_at_once(micro_batch, length, vocabulary) == expected


@pytest.mark.slow
def test_a_training_measures_the_same_row_by_row(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"per_device_train_batch_size": 4, "max_steps": 4, "evaluations": 2}
    whole = runs.prepare("whole", training=settings)
    assert train(whole) == 0
    monkeypatch.setattr(held_out, "LOGIT_BYTES", 1)
    single = runs.prepare("single", training=settings)
    assert train(single) == 0
    assert losses(single) == losses(whole)
    measured = [result_of(each)["figures"]["validation_loss_last"] for each in (whole, single)]
    assert measured[0] == pytest.approx(measured[1], rel=1e-4)
