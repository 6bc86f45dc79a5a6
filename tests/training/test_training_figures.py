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


def test_the_peak_is_the_devices_where_there_is_one() -> None:
    of_process = TrainingFigures.from_json(stored_training(peak_memory_bytes=7))
    of_device = TrainingFigures.from_json(stored_training(peak_memory_bytes=7, peak_device_memory_bytes=3))
    assert (of_process.peak_bytes, of_device.peak_bytes) == (7, 3)


def test_the_rate_that_it_was_trained_at_is_the_lowered_one() -> None:
    assert TrainingFigures.from_json(stored_training()).learning_rate(3e-4) == 3e-4
    lowered = TrainingFigures.from_json(stored_training(learning_rate_lowered=1e-4))
    assert lowered.learning_rate(3e-4) == 1e-4
