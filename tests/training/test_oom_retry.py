"""Out of memory: once more with half the micro-batch, from the same checkpoints."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ft_dagster.spec.training import TrainingSettings
from ft_dagster.training.contract import read_run
from ft_dagster.training.oom_retry import halved, in_force, wants_halving
from tests.programs import RunningProgram
from tests.training.runs import TRAINING, Runs, losses, result_of, wait_for_step
from tests.training.wide_row import STEPS, WIDE, widening_mixture

NO_DROPOUT = {"dropout": 0.0}
Start = Callable[..., RunningProgram]


@pytest.mark.parametrize(
    ("before", "after"), [((4, 2), (2, 4)), ((6, 1), (3, 2)), ((3, 2), (1, 6)), ((9, 1), (3, 3))]
)
def test_the_effective_batch_stays(before: tuple[int, int], after: tuple[int, int]) -> None:
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    settings = TrainingSettings.model_validate({**TRAINING, **dict(zip(names, before, strict=True))})
    assert tuple(getattr(halved(settings), name) for name in names) == after


def test_only_a_try_that_ran_out_of_memory_or_was_halved_is_followed_by_a_halved_one(runs: Runs) -> None:
    run_folder = runs.prepare()
    result = run_folder / "acme.support/result.json"
    result.parent.mkdir()
    said = {"schema_version": 1, "variant": "acme.support", "status": "failed", "recipe": ""}
    assert not wants_halving(run_folder, result)
    result.write_text(json.dumps(said))
    assert not wants_halving(run_folder, result)
    result.write_text(json.dumps({**said, "reason": "out_of_memory"}))
    assert wants_halving(run_folder, result)
    result.unlink()
    assert wants_halving(runs.prepare("again", micro_batch_halved=True), result)


def test_a_member_that_is_not_halved_is_trained_as_planned(runs: Runs) -> None:
    member = read_run(runs.prepare()).members[0]
    assert in_force(member) is member


@pytest.fixture
def widening(runs: Runs) -> str:
    return widening_mixture(runs)


def starve(process: RunningProgram, run_folder: Path) -> None:
    """Let the program have no more memory than it has past its first checkpoint."""
    wait_for_step(process, run_folder, STEPS // 2 + 1)
    psutil.Process(process.pid).rlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))


@pytest.mark.long
def test_memory_that_runs_out_is_told_and_the_halved_try_goes_on_from_the_checkpoint(
    runs: Runs, start: Start, widening: str
) -> None:
    whole = runs.prepare("whole", training=WIDE, method=NO_DROPOUT, mixture=widening)
    assert start(whole).wait() == 0
    run_folder = runs.prepare("starved", training=WIDE, method=NO_DROPOUT, mixture=widening)
    process = start(run_folder)
    starve(process, run_folder)
    _, complained = process.communicate()
    assert process.returncode == 75, complained
    assert len(losses(run_folder)) == STEPS - 1
    assert result_of(run_folder)["reason"] == "out_of_memory"
    assert "half the micro-batch" in result_of(run_folder)["error"]["fix"]
    runs.prepare("starved", training=WIDE, method=NO_DROPOUT, mixture=widening, micro_batch_halved=True)
    assert start(run_folder).wait() == 0
    figures = result_of(run_folder)["figures"]
    assert figures["micro_batch_halved"] is True
    assert figures["resumed_from"] == [STEPS // 2]
    assert losses(run_folder) == pytest.approx(losses(whole), rel=1e-3)


@pytest.mark.long
def test_memory_that_runs_out_of_a_halved_try_is_an_error_that_names_what_would_help(
    runs: Runs, start: Start, widening: str
) -> None:
    run_folder = runs.prepare("again", training=WIDE, mixture=widening, micro_batch_halved=True)
    process = start(run_folder)
    starve(process, run_folder)
    _, complained = process.communicate()
    assert process.returncode == 2, complained
    error = result_of(run_folder)["error"]
    assert (error["field"], error["value"]) == ("training.per_device_train_batch_size", "8")
    assert "training.gradient_checkpointing: true" in error["fix"]
    assert "reason" not in result_of(run_folder)
