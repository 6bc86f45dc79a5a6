"""A learning rate that is far off is caught in the first steps: by a rule, and by a trainer that heeds it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.spec.training import TrainingSettings
from ft_dagster.training import trainer
from ft_dagster.training.journal import JournalStep
from ft_dagster.training.watch.rate import FEWEST, RateTooHigh, batch_noise, judged, looked_at, sentence
from tests.programs import RunningProgram
from tests.training.methods.taught import trainer_of
from tests.training.runs import TRAINING, Runs, losses, payload_bytes, result_of, train, wait_for_step

Start = Callable[..., RunningProgram]
# Of the tiny model, which at this rate only gets worse (no dropout: what is drawn differs by nothing else).
TOO_HIGH = {
    "learning_rate": 3.0, "num_train_epochs": 4.0, "warmup_ratio": 0.0, "evaluations": 4,
    "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1,
}  # fmt: skip
FULL = {"name": "full"}


def curve(loss: Callable[[int], float], noise: float, seed: int, steps: int = FEWEST) -> list[float]:
    draw = random.Random(seed)
    return [loss(step) + draw.gauss(0, noise) for step in range(steps)]


def verdicts(loss: Callable[[int], float], noise: float, trials: int = 2000) -> dict[str | None, float]:
    found = [judged(curve(loss, noise, seed)) for seed in range(trials)]
    return {verdict: found.count(verdict) / trials for verdict in ("too high", "too low", None)}


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("learned", [0.1, 0.3, 0.6])
def test_a_training_that_learns_is_no_alarm(noise: float, learned: float) -> None:
    found = verdicts(lambda step: 3 * (1 - learned * step / FEWEST), noise)
    assert found["too high"] <= 0.002
    assert found["too low"] <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3, 0.6])
def test_a_loss_that_stands_still_is_not_called_too_high_but_by_chance(noise: float) -> None:
    assert verdicts(lambda _: 3.0, noise)["too high"] <= 0.01


@pytest.mark.parametrize("climb", [lambda step: 3 if step < 3 else 9, lambda step: 3 + min(step, 8) / 2])
def test_a_loss_that_jumps_or_climbs_is_too_high(climb: Callable[[int], float]) -> None:
    assert verdicts(climb, 0.3)["too high"] > 0.9
    assert "the loss of steps 9 to 16 is" in sentence("too high", curve(climb, 0.0, 0))


def test_an_easy_first_batch_is_no_alarm_where_the_validation_loss_before_it_is_known() -> None:
    easy = [1.5, *curve(lambda _: 4.5, 0.1, 0, steps=FEWEST - 1)]
    assert judged(easy) == "too high"
    assert judged(easy, 4.3) is None
    assert "was 3.000 before any update" in sentence("too high", easy, 3.0)
    for unknown in (None, math.nan, math.inf):
        assert "was 1.500 before any update" in sentence("too high", easy, unknown)


def test_a_loss_that_rises_and_comes_back_is_no_alarm() -> None:
    assert verdicts(lambda step: 6 if 2 <= step < 6 else 2.7, 0.2)["too high"] == 0


def test_a_loss_that_stands_still_beyond_noise_is_too_low_and_one_within_it_says_nothing() -> None:
    assert verdicts(lambda _: 3.0, 0.02)["too low"] > 0.9
    assert verdicts(lambda _: 3.0, 0.5)["too low"] < 0.1


def test_a_loss_of_zero_has_nothing_left_to_learn() -> None:
    assert judged([0.0] * FEWEST) is None


def test_noise_is_that_of_batches_and_not_the_trend() -> None:
    fallen = curve(lambda step: 10 - step / 100, 0.2, 1, steps=400)
    assert batch_noise(fallen) == pytest.approx(0.2 / 8, rel=0.2)


def test_a_loss_whose_noise_grows_with_it_is_seen_to_rise() -> None:
    climbs = [6.2, 232, 71.6, 271, 311, 1094, 830, 452, 458, 559, 658, 410, 183, 513, 770, 764]
    assert judged(climbs) == "too high"


def test_it_is_looked_at_after_the_warmup_and_never_where_half_the_training_is_over() -> None:
    assert looked_at(31, 0.03) is None
    assert looked_at(32, 0.03) == 16
    assert looked_at(1000, 0.03) == 130
    assert looked_at(1000, 0.5) is None


def test_a_plan_that_says_nothing_of_it_keeps_its_bytes() -> None:
    usual = TrainingSettings.model_validate(TRAINING)
    assert usual.on_bad_rate == "stop"
    assert "on_bad_rate" not in usual.model_dump(mode="json")
    assert usual.model_copy(update={"on_bad_rate": "lower"}).model_dump(mode="json")["on_bad_rate"] == "lower"


@pytest.mark.slow
def test_a_rate_that_is_too_high_ends_the_training_with_the_way_out(runs: Runs) -> None:
    run_folder = runs.prepare("high", training=TOO_HIGH, method=FULL)
    assert train(run_folder) == 2
    error = result_of(run_folder)["error"]
    assert error["field"] == "training.learning_rate"
    assert error["value"] == "3.0"
    assert "too high" in error["problem"]
    assert "training.on_bad_rate: lower" in error["fix"]
    assert len(losses(run_folder)) == FEWEST


@pytest.mark.slow
def test_a_loss_that_is_not_finite_before_any_update_is_not_the_rates(runs: Runs) -> None:
    work, _ = trainer_of(runs.prepare(training=TOO_HIGH, method=FULL))
    with pytest.raises(UserError) as first:
        trainer._diverged(work, "loss", math.nan, [0])
    assert not isinstance(first.value, RateTooHigh)
    work.journal.consume(JournalStep([], "", 0, 0, 0), 0.0)
    with pytest.raises(RateTooHigh, match="the loss became nan at step 2"):
        trainer._diverged(work, "loss", math.nan, [0])


@pytest.mark.slow
def test_who_only_wants_to_be_told_gets_a_model_and_is_told(runs: Runs) -> None:
    run_folder = runs.prepare("told", training={**TOO_HIGH, "on_bad_rate": "warn"}, method=FULL)
    assert train(run_folder) == 0
    assert "too high" in result_of(run_folder)["figures"]["advice"][0]


@pytest.mark.slow
def test_a_lowered_training_is_the_one_at_a_third_of_the_rate(runs: Runs) -> None:
    high = {**TOO_HIGH, "learning_rate": 1.5}
    lowered = runs.prepare("lowered", training={**high, "on_bad_rate": "lower"}, method=FULL)
    third = runs.prepare(
        "third", training={**high, "learning_rate": 1.5 / 3, "on_bad_rate": "warn"}, method=FULL
    )
    assert train(third) == 0
    if train(lowered) == 2:  # a third is too high as well
        assert result_of(lowered)["error"]["value"] == "0.5"
    assert losses(lowered) == losses(third)[: len(losses(lowered))]


@pytest.mark.slow
@pytest.mark.long
def test_two_ranks_begin_again_together(runs: Runs, start: Start) -> None:
    training = {**TOO_HIGH, "learning_rate": 1.5, "num_train_epochs": 8.0, "on_bad_rate": "lower"}
    run_folder = runs.prepare("two", training=training, method=FULL, ranks=2)
    process = start(run_folder)
    _, complained = process.communicate(timeout=300)
    result = result_of(run_folder)
    if process.returncode == 2:  # a third is too high as well
        assert result["error"]["value"] == "0.5", complained
    else:
        assert result["figures"]["learning_rate_lowered"] == 0.5, complained


@pytest.mark.long
def test_a_lowered_training_that_is_killed_goes_on_at_the_lower_rate(runs: Runs, start: Start) -> None:
    asked = too_high_by_less_than_a_notch(runs)
    whole = runs.prepare("whole", training=asked, method=FULL)
    assert start(whole).wait() == 0
    figures = result_of(whole)["figures"]
    assert figures["advice"][0].startswith("began again at a learning rate of ")
    cut = runs.prepare("cut", training=asked, method=FULL)
    process = start(cut)
    wait_for_step(process, cut, 3 * figures["steps"] // 4)
    process.kill()
    process.wait()
    assert start(cut).wait() == 0
    assert result_of(cut)["figures"]["resumed_from"]
    assert payload_bytes(cut) == payload_bytes(whole)
    assert max(rates(cut)) == max(rates(whole)) == figures["learning_rate_lowered"]


def too_high_by_less_than_a_notch(runs: Runs) -> dict[str, Any]:
    """Settings of a training whose rate is lowered, and right then."""
    for rate in (0.9, 0.6, 0.4, 0.27, 0.18, 0.12, 0.08, 0.05):
        asked = {**TOO_HIGH, "learning_rate": rate, "on_bad_rate": "lower", "lr_scheduler_type": "constant"}
        run_folder = runs.prepare(f"tried-{rate}", training=asked, method=FULL)
        if train(run_folder) == 0 and "learning_rate_lowered" in result_of(run_folder)["figures"]:
            return asked
    raise AssertionError("no rate was too high whose third is not")


def rates(run_folder: Path) -> list[float]:
    lines = map(json.loads, (run_folder / "acme.support/evidence/log.jsonl").read_text().splitlines())
    return [line["learning_rate"] for line in lines if "learning_rate" in line]
