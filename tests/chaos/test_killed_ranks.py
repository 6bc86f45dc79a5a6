"""Two ranks under torchrun: a rank, torchrun or both are killed or do not answer; the next run goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ft_dagster.training.checkpoints import complete
from tests.chaos.disturbed_runs import Admit, DisturbedRun, digest_of, kill
from tests.chaos.killed_trainings import assert_it_goes_on, committed_step, half_written, logged
from tests.present import present
from tests.training.runs import Runs, write_mixture

pytestmark = [pytest.mark.slow, pytest.mark.long]
TRAINING = {
    "num_train_epochs": 16.0,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-3,
    "evaluations": 6,
    "keep_last": 3,
    "keep_best": 2,
    "deepspeed": {"stage": 3},
}
TWO_RANKS: dict[str, Any] = {"method": {"name": "full"}, "training": TRAINING, "ranks": 2}
Moment = Callable[[DisturbedRun, Path], object]
Act = Callable[[DisturbedRun], None]


def torchrun(disturbed: DisturbedRun) -> psutil.Process:
    """The parent of the ranks' watchers."""
    return present(watcher(disturbed).parent())


def watcher(disturbed: DisturbedRun) -> psutil.Process:
    """Of the first rank."""
    return present(disturbed.ranks()[0].parent())


ACTS: dict[str, Act] = {
    "the first rank": lambda disturbed: kill(disturbed.ranks()[0]),
    "the last rank": lambda disturbed: kill(disturbed.ranks()[-1]),
    "the watcher of a rank": lambda disturbed: kill(watcher(disturbed)),
    "torchrun": lambda disturbed: kill(torchrun(disturbed)),
}
MOMENTS: dict[str, Moment] = {
    "the ranks start": lambda disturbed, _: len(disturbed.ranks()) >= 2,
    "after some steps": lambda _, output: logged(output, 3, "loss"),
    "during a checkpoint": lambda _, output: half_written(output),
    "a checkpoint is committed": lambda _, output: complete(output / "checkpoints"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Runs:
    folder = tmp_path_factory.mktemp("ranks")
    return Runs(folder, tiny_model_folder, write_mixture(folder / "mixture"))


@pytest.fixture(scope="module")
def undisturbed(runs: Runs) -> str:
    disturbed = DisturbedRun("training", runs.prepare("undisturbed", **TWO_RANKS))
    try:
        assert disturbed.end() == 0, disturbed.said
    finally:
        disturbed.rescue()
    return digest_of(disturbed.run_folder / "acme.support/payload")


def disturb(admit: Admit, runs: Runs, name: str, moment: str) -> tuple[DisturbedRun, Path]:
    folder = "".join(letter if letter.isalpha() else "-" for letter in f"{name} {moment}")
    disturbed = admit("training", runs.prepare(folder, **TWO_RANKS))
    output = disturbed.run_folder / "acme.support"
    disturbed.wait_for(lambda: MOMENTS[moment](disturbed, output))
    return disturbed, output


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("who", ACTS)
def test_killed(admit: Admit, runs: Runs, undisturbed: str, who: str, moment: str) -> None:
    disturbed, output = disturb(admit, runs, who, moment)
    committed = committed_step(output)
    ACTS[who](disturbed)
    assert disturbed.end() == 128 + signal.SIGKILL, disturbed.said
    assert_it_goes_on(admit, disturbed, undisturbed, committed)


def test_a_cancel_of_ranks_that_do_not_answer_ends_them_after_the_grace(
    admit: Admit, runs: Runs, undisturbed: str
) -> None:
    disturbed = admit("training", runs.prepare("stubborn", **TWO_RANKS), grace=2.0)
    output = disturbed.run_folder / "acme.support"
    disturbed.wait_for(lambda: committed_step(output))
    for process in [*disturbed.ranks(), torchrun(disturbed)]:
        process.suspend()
    committed = committed_step(output)
    disturbed.cancel()
    disturbed.end(30)
    assert disturbed.cancelled
    assert_it_goes_on(admit, disturbed, undisturbed, committed)
