"""Several processes of one training, really started: the same training as in one, and nothing half-said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from ft_dagster.training import checkpoints, ranks
from ft_dagster.training.ranks import all_ends, cause, torch_patience
from tests.long import mostly_long
from tests.programs import RunningProgram
from tests.training.methods.taught import trainer_of
from tests.training.runs import Runs, payload_bytes, result_of, wait_for_step, write_mixture

pytestmark = pytest.mark.slow
Start = Callable[..., RunningProgram]
FULL = {"name": "full"}
ADAPTER = {"rank": 4, "alpha": 8.0, "dropout": 0.0}
ONE = {"learning_rate": 1e-3, "num_train_epochs": 6.0, "gradient_accumulation_steps": 2}
TWO = {**ONE, "gradient_accumulation_steps": 1}


def train(start: Start, run_folder: Path) -> Path:
    process = start(run_folder)
    _, complained = process.communicate(timeout=300)
    assert process.returncode == 0, complained
    return run_folder


def losses(run_folder: Path) -> list[float]:
    lines = (run_folder / "acme.support/evidence/log.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def times(run_folder: Path) -> list[int]:
    return json.loads((run_folder / "acme.support/evidence/ledger.json").read_text())["times"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Callable[..., Path]:
    """The folder of the same training in one process, by its method; each is run once."""
    folder = tmp_path_factory.mktemp("alone")
    runs = Runs(folder, tiny_model_folder, write_mixture(folder / "mixture"))
    start = partial(RunningProgram, "training")

    @cache
    def trained(name: str) -> Path:
        method = FULL if name == "full" else {**ADAPTER, "name": name}
        return train(start, runs.prepare(name, method=method, training=ONE))

    return trained


@pytest.mark.parametrize("stage", mostly_long([0, 2, 3], [2]))
def test_two_ranks_train_as_one_process_does(
    runs: Runs, start: Start, alone: Callable[..., Path], stage: int
) -> None:
    one = alone("full")
    two = train(
        start,
        runs.prepare("two", method=FULL, training={**TWO, "deepspeed": {"stage": stage}}, ranks=2),
    )
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert times(two) == times(one)
    figures = result_of(two)["figures"]
    assert figures["validation_loss_best"] == pytest.approx(
        result_of(one)["figures"]["validation_loss_best"], rel=1e-4
    )
    assert figures["trainable_parameters"] == result_of(one)["figures"]["trainable_parameters"]
    for name, tensor in load_file(two / "acme.support/payload/model.safetensors").items():
        weight = load_file(one / "acme.support/payload/model.safetensors")[name]
        assert tensor.shape == weight.shape
        assert (tensor.float() - weight.float()).abs().max() < 2e-3, name
    written = two / "acme.support/evidence/deepspeed.json"
    if stage:
        assert json.loads(written.read_text())["zero_optimization"]["stage"] == stage
    else:
        assert not written.exists()


@pytest.mark.parametrize(
    ("method", "stage"),
    mostly_long([("lora", 0), ("qlora", 3), ("lora", 3), ("qlora", 0)]),
)
def test_adapters_train_over_two_ranks(
    runs: Runs, start: Start, alone: Callable[..., Path], method: str, stage: int
) -> None:
    settings = {**ADAPTER, "name": method}
    one = alone(method)
    two = train(
        start,
        runs.prepare("two", method=settings, training={**TWO, "deepspeed": {"stage": stage}}, ranks=2),
    )
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)
    assert payload_bytes(two).keys() == payload_bytes(one).keys()
    weights = load_file(one / "acme.support/payload/adapter_model.safetensors")
    for name, tensor in load_file(two / "acme.support/payload/adapter_model.safetensors").items():
        assert tensor.shape == weights[name].shape
        assert (tensor - weights[name]).abs().max() < 5e-3, name


@pytest.mark.long
def test_a_rank_without_an_example_left_takes_part(
    start: Start, tmp_path: Path, tiny_model_folder: Path
) -> None:
    """Five examples over two ranks, and layers that are computed again: every parameter has a gradient."""
    runs = Runs(tmp_path, tiny_model_folder, write_mixture(tmp_path / "mixture", train=5, shards=1))
    alone = {**ONE, "num_train_epochs": 2.0, "packing": False, "gradient_checkpointing": True}
    alone["per_device_train_batch_size"] = 1
    together = {**alone, "gradient_accumulation_steps": 1}
    one = train(start, runs.prepare("one", method=FULL, training=alone, by_example=True))
    two = train(start, runs.prepare("two", method=FULL, training=together, ranks=2, by_example=True))
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    by_example = [result_of(each)["figures"]["validation_by_example"] for each in (one, two)]
    expected, found = ([loss for loss, _ in each] for each in by_example)
    assert found == pytest.approx(expected, rel=1e-3)
    assert len(set(expected)) == len(expected) == 6


@pytest.mark.long
def test_ranks_killed_and_resumed_equal_those_left_alone(runs: Runs, start: Start) -> None:
    settings = {**TWO, "num_train_epochs": 16.0, "deepspeed": {"stage": 3}, "keep_last": 4}
    whole = train(start, runs.prepare("whole", method=FULL, training=settings, ranks=2))
    run_folder = runs.prepare("killed", method=FULL, training=settings, ranks=2)
    process = start(run_folder)
    wait_for_step(process, run_folder, result_of(whole)["figures"]["steps"] // 2)
    workers = psutil.Process(process.pid).children(recursive=True)
    workers[-1].kill()  # one rank alone: the others must not wait for it
    process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGKILL
    assert not any(worker.is_running() and worker.status() != "zombie" for worker in workers)
    train(start, run_folder)
    assert result_of(run_folder)["figures"]["resumed_from"]
    assert payload_bytes(run_folder) == payload_bytes(whole)
    assert losses(run_folder) == losses(whole)


@pytest.mark.long
def test_three_copies_that_go_on_from_a_checkpoint_equal_those_that_were_not_interrupted(
    runs: Runs, start: Start
) -> None:
    """Three add up in an order that follows from how gradients lie, which changes after a first pass."""
    settings = {**TWO, "gradient_accumulation_steps": 2, "evaluations": 3, "keep_last": 3}
    method = {**ADAPTER, "dropout": 0.1, "name": "lora"}
    whole = train(start, runs.prepare("whole", method=method, training=settings, ranks=3))
    resumed = runs.prepare("resumed", method=method, training=settings, ranks=3)
    first = checkpoints.complete(whole / "acme.support/checkpoints")[0]
    for part in (f"checkpoints/{first.folder.name}", "evidence"):
        shutil.copytree(whole / "acme.support" / part, resumed / "acme.support" / part)
    train(start, resumed)
    assert result_of(resumed)["figures"]["resumed_from"] == [first.step]
    assert losses(resumed) == losses(whole)
    assert payload_bytes(resumed) == payload_bytes(whole)


@pytest.mark.long
def test_a_preempted_training_saves_on_every_rank_and_resumes(runs: Runs, start: Start) -> None:
    settings = {**TWO, "num_train_epochs": 40.0, "evaluations": 1}
    run_folder = runs.prepare("preempted", method=FULL, training=settings, ranks=2)
    process = start(run_folder)
    wait_for_step(process, run_folder, 5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 75
    assert result_of(run_folder)["status"] == "preempted"
    assert result_of(train(start, run_folder))["figures"]["resumed_from"][0] >= 5


def test_bad_input_found_by_a_rank_ends_all_with_its_one_error(runs: Runs, start: Start) -> None:
    run_folder = runs.prepare("bad", method=FULL, training={**TWO, "learning_rate": 1e12}, ranks=2)
    began = time.monotonic()
    process = start(run_folder)
    process.communicate(timeout=120)
    assert process.returncode == 2
    result = result_of(run_folder)
    assert result["status"] == "failed"
    assert result["error"]["field"] == "training.learning_rate"
    assert time.monotonic() - began < 60
    assert not [p for p in psutil.process_iter(["environ"]) if _of(p, run_folder)]


def _of(process: psutil.Process, run_folder: Path) -> bool:
    try:
        return process.pid != os.getpid() and str(run_folder) in " ".join(process.cmdline())
    except psutil.Error:
        return False


def test_ranks_wait_as_long_as_one_may_hash_a_checkpoint_alone(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    (weights,) = runs.base.glob("*.safetensors")
    bytes_a_second = weights.stat().st_size / 1000
    monkeypatch.setattr(ranks, "HASHED", bytes_a_second)
    _, trainer = trainer_of(runs.prepare("full", method=FULL))
    assert trainer.args.ddp_timeout == pytest.approx(8000, abs=1)
    _, trainer = trainer_of(runs.prepare("adapter", method=ADAPTER))
    assert trainer.args.ddp_timeout == ranks.PATIENCE
    monkeypatch.setattr(ranks, "HASHED", 1000 * bytes_a_second)
    assert ranks.patience(runs.base, "full") == ranks.PATIENCE


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ([(2, 0), (-9, 30)], 2),  # bad input; the other was ended for it
        ([(-6, 0), (130, 1)], 130),
        ([(-9, 0), (75, 0)], 137),  # killed; torch ended the other
        ([(-6, 0), (-9, 0)], 137),  # one aborts for want of the other
        ([(1, 0), (-9, 0)], 137),
        ([(1, 0), (-9, 31)], 1),  # an error; the other hung, and torch killed it
        ([(1, 0), (75, 1)], 1),
        ([(-11, 0), (75, 0)], 139),
        ([(75, 0), (75, 0)], 75),
        ([(75, 0), (-6, 0)], 75),
    ],
)
def test_the_rank_by_which_all_ended_is_told_from_those_that_it_took_along(
    ends: list[tuple[int, float]], code: int
) -> None:
    assert cause(ends) == code


def test_a_rank_whose_watcher_was_killed_is_the_cause_where_torch_told_of_another() -> None:
    """That other one only lost its connection."""
    told = [(1, 100.0)]
    assert cause(all_ends(told, 1, 101.0)) == 128 + signal.SIGKILL
    assert cause(all_ends(told, 0, 101.0)) == 1
    assert cause(all_ends(told, 1, 100.0 + torch_patience())) == 1  # that one hung, and torch killed it
    assert cause(all_ends([(2, 101.0), (1, 100.0)], 1, 102.0)) == 2
