"""A training's figures, stored and read again."""

from __future__ import annotations

import json
import math

from ft_dagster.strict_json import dumps
from ft_dagster.training.training_figures import TrainingFigures
from tests.stored_figures import stored_training


def test_a_loss_that_was_not_finite_stays_named_however_often_it_is_stored() -> None:
    figures = TrainingFigures.from_json(stored_training(validation_loss_best=math.nan))
    stored = json.loads(dumps(figures.to_json()))
    read = TrainingFigures.from_json(stored)
    assert read.validation_loss_best is None
    assert read.not_finite == {"validation_loss_best": "nan"}
    assert json.loads(dumps(read.to_json())) == stored


def test_what_says_nothing_is_not_stored() -> None:
    plain = TrainingFigures.from_json(stored_training()).to_json()
    assert not {"micro_batch_halved", "not_finite"} & set(plain)
    assert TrainingFigures.from_json(stored_training(micro_batch_halved=True)).to_json()["micro_batch_halved"]


def test_the_peak_is_what_a_plan_foretells_where_that_was_measured() -> None:
    """Of a GPU what its allocator reserved; of a process what it took beyond its imports."""

    def peak(**measured: int) -> int:
        return TrainingFigures.from_json(stored_training(peak_memory_bytes=7, **measured)).peak_bytes

    assert (peak(), peak(imported_bytes=5)) == (7, 2)
    assert peak(imported_bytes=5, peak_device_memory_bytes=3) == 2
    assert peak(imported_bytes=5, peak_device_memory_bytes=3, peak_device_reserved_bytes=4) == 4
    assert peak(peak_device_memory_bytes=3) == 3


def test_the_rate_that_it_was_trained_at_is_the_lowered_one() -> None:
    assert TrainingFigures.from_json(stored_training()).learning_rate(3e-4) == 3e-4
    lowered = TrainingFigures.from_json(stored_training(learning_rate_lowered=1e-4))
    assert lowered.learning_rate(3e-4) == 1e-4
