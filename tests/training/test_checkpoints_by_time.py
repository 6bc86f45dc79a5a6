"""Checkpoints between evaluations: when one is due, and that none changes what a training gives."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ft_dagster.launch import processes
from ft_dagster.training import checkpoints
from ft_dagster.training.checkpoints import CheckpointTimer
from tests.training.runs import Runs, losses, payload_bytes, result_of, train, write_mixture

NO_TIME = 1e-9  # minutes
SETTINGS = {"num_train_epochs": 6.0, "evaluations": 2, "keep_best": 1, "keep_last": 3}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def save(timer: CheckpointTimer, clock: Clock, seconds: float) -> None:
    with timer.saving():
        clock.now += seconds


def test_a_checkpoint_is_due_so_many_minutes_after_the_last_one_of_any_kind() -> None:
    clock = Clock()
    timer = CheckpointTimer(2.0, clock)
    clock.now = 119
    assert not timer.due()
    clock.now = 120
    assert timer.due()
    save(timer, clock, 1)
    clock.now += 119
    assert not timer.due()
    clock.now += 1
    assert timer.due()


def test_checkpoints_by_time_take_a_twentieth_of_it_at_most() -> None:
    clock = Clock()
    timer = CheckpointTimer(1.0, clock)
    save(timer, clock, 30)
    clock.now += 599
    assert not timer.due()
    clock.now += 1
    assert timer.due()


def test_without_minutes_none_is_due() -> None:
    clock = Clock()
    timer = CheckpointTimer(None, clock)
    clock.now = 1e9
    assert not timer.due()


@pytest.fixture
def at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long saving takes; all are kept."""
    monkeypatch.setattr(checkpoints, "MAX_SAVING_SHARE", 1e9)
    monkeypatch.setattr(checkpoints, "prune", lambda *_, **__: None)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """The run folder of a training that saves at its looks alone; not to be changed."""
    folder = tmp_path_factory.mktemp("usual")
    run_folder = Runs(folder, tiny_model_folder, write_mixture(folder / "mixture")).prepare(training=SETTINGS)
    assert train(run_folder) == 0
    return run_folder


def saved(run_folder: Path) -> list[int]:
    return [found.step for found in checkpoints.complete(run_folder / "acme.support/checkpoints")]


@pytest.mark.long
@pytest.mark.usefixtures("at_each_step")
def test_saving_at_each_step_changes_no_byte_of_what_is_trained(runs: Runs, usual: Path) -> None:
    often = runs.prepare("often", training=SETTINGS, checkpoint_minutes=NO_TIME)
    assert train(often) == 0
    steps = result_of(usual)["figures"]["steps"]
    assert saved(usual) == [steps // 2, steps]
    assert saved(often) == list(range(1, steps + 1))
    assert payload_bytes(often) == payload_bytes(usual)
    assert losses(often) == losses(usual)


@pytest.mark.slow
@pytest.mark.usefixtures("at_each_step")
def test_a_training_goes_on_from_a_checkpoint_by_time_to_the_same_bytes(runs: Runs, usual: Path) -> None:
    killed = runs.prepare("killed", training=SETTINGS, checkpoint_minutes=NO_TIME)
    assert train(killed) == 0
    output = killed / "acme.support"
    last = saved(killed)[-1]
    checkpoints.discard(output / f"checkpoints/checkpoint-{last}")
    (output / "result.json").unlink()
    shutil.rmtree(output / "payload")
    assert train(killed) == 0
    assert result_of(killed)["figures"]["resumed_from"] == [last - 1]
    assert payload_bytes(killed) == payload_bytes(usual)
    assert losses(killed) == losses(usual)


@pytest.mark.slow
def test_of_those_by_time_the_newest_alone_is_kept(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MAX_SAVING_SHARE", 1e9)
    folder = runs.prepare(training=SETTINGS, checkpoint_minutes=NO_TIME)
    assert train(folder) == 0
    steps = result_of(folder)["figures"]["steps"]
    assert saved(folder) == [steps // 2, steps]


@pytest.mark.slow
@pytest.mark.usefixtures("at_each_step")
def test_without_validation_the_last_step_is_the_model_however_often_it_was_saved(runs: Runs) -> None:
    mixture = write_mixture(runs.folder / "no-validation", validation=0)
    folder = runs.prepare(training=SETTINGS, mixture=str(mixture), checkpoint_minutes=NO_TIME)
    assert train(folder) == 0
    figures = result_of(folder)["figures"]
    assert figures["best_step"] == figures["steps"]


@pytest.mark.slow
def test_that_a_preemption_leaves_no_time_to_save_is_said_once(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(processes.GRACE, "0")
    assert train(runs.prepare(training=SETTINGS)) == 0
    assert capsys.readouterr().out.count("between a preemption and the end") == 1
