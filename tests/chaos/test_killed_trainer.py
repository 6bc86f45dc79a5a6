"""The trainer is killed, preempted or cancelled at every moment of its life; the next run goes on from there.

Each case: no process and no lease is left, no result that says more than is there, no committed checkpoint is
lost, and the model has the digest of the one that nobody disturbed.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ft_dagster.training.checkpoints import complete
from tests.chaos.disturbed_runs import GRACE, Admit, DisturbedRun, MissedMoment, digest_of, kill, loaded
from tests.chaos.killed_trainings import assert_it_goes_on, committed_step, folders, half_written, logged
from tests.present import present
from tests.training.runs import Runs, write_mixture

pytestmark = pytest.mark.slow
SETTINGS = {"num_train_epochs": 24.0, "evaluations": 8, "keep_last": 3, "keep_best": 2}
Moment = Callable[[DisturbedRun, Path], object]


def steps(output: Path) -> int:
    """Optimizer steps of the training, which progress.json knows."""
    file = output / "progress.json"
    return json.loads(file.read_text())["total_steps"] if file.exists() else 10**9


MOMENTS: dict[str, Moment] = {
    "the interpreter starts": lambda disturbed, _: disturbed.main(),
    "its run folder is made": lambda _, output: output.exists(),
    "torch is imported": lambda disturbed, _: loaded(disturbed.main().pid, "libtorch_cpu"),
    "the mixture is read": lambda disturbed, _: loaded(disturbed.main().pid, "libparquet"),
    "the model is built": lambda _, output: (output / "evidence/log.jsonl").exists(),
    "the base is evaluated": lambda _, output: logged(output, 0, "validation_loss"),
    "before the first step": lambda _, output: logged(output, 0, "general_holdout_loss"),
    "after the first step": lambda _, output: logged(output, 1, "loss"),
    "the first checkpoint is begun": lambda _, output: folders(output),
    "a checkpoint has its weights": lambda _, output: half_written(output, "adapter_model.safetensors"),
    "a checkpoint has its optimizer state": lambda _, output: half_written(output, "optimizer.pt"),
    "a checkpoint has its journal": lambda _, output: half_written(output, "journal.json"),
    "a checkpoint is committed": lambda _, output: complete(output / "checkpoints"),
    "older checkpoints are pruned": lambda _, output: len(complete(output / "checkpoints")) >= 4,
    "half of the steps are made": lambda _, output: logged(output, steps(output) // 2, "loss"),
    "an evaluation is half done": lambda _, output: logged(output, steps(output) * 6 // 8, "validation_loss"),
    "the last step is made": lambda _, output: logged(output, steps(output), "loss"),
    "the payload is begun": lambda _, output: (output / "payload").exists(),
    "the payload has its weights": lambda _, output: (output / "payload/adapter_model.safetensors").exists(),
    "the ledger is written": lambda _, output: (output / "evidence/ledger.json").exists(),
    "the result is written": lambda _, output: (output / "result.json").exists(),
}
IN_CI = "a checkpoint has its optimizer state"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Runs:
    folder = tmp_path_factory.mktemp("killed")
    return Runs(folder, tiny_model_folder, write_mixture(folder / "mixture"))


@pytest.fixture(scope="module")
def undisturbed(runs: Runs) -> str:
    """The digest of the model that nobody disturbed."""
    disturbed = DisturbedRun("training", runs.prepare("undisturbed", training=SETTINGS))
    try:
        assert disturbed.end() == 0, disturbed.said
    finally:
        disturbed.rescue()
    return digest_of(disturbed.run_folder / "acme.support/payload")


def moments() -> list[object]:
    return [pytest.param(name, marks=() if name == IN_CI else pytest.mark.long) for name in MOMENTS]


def disturb(admit: Admit, runs: Runs, moment: str, name: str, missed: int = 0) -> tuple[DisturbedRun, Path]:
    """A training that is stopped at that moment; on loaded cores two may end before they are seen there."""
    folder = "".join(letter if letter.isalpha() else "-" for letter in f"{name} {moment}") + missed * "-"
    disturbed = admit("training", runs.prepare(folder, training=SETTINGS), fresh=True)
    output = disturbed.run_folder / "acme.support"
    try:
        disturbed.stop_at(lambda: MOMENTS[moment](disturbed, output))
    except MissedMoment:
        if missed == 2:
            raise
        return disturb(admit, runs, moment, name, missed + 1)
    return disturbed, output


@pytest.mark.long
@pytest.mark.parametrize("moment", moments())
def test_killed_when(admit: Admit, runs: Runs, undisturbed: str, moment: str) -> None:
    disturbed, output = disturb(admit, runs, moment, "killed")
    committed = committed_step(output)
    kill(disturbed.main())
    assert disturbed.end() == 128 + signal.SIGKILL
    assert_it_goes_on(admit, disturbed, undisturbed, committed)


@pytest.mark.long
@pytest.mark.parametrize(
    "moment",
    ["torch is imported", "the model is built", "after the first step", IN_CI, "the payload is begun"],
)
def test_preempted_when(admit: Admit, runs: Runs, undisturbed: str, moment: str) -> None:
    disturbed, output = disturb(admit, runs, moment, "preempted")
    committed = committed_step(output)
    disturbed.main().terminate()
    disturbed.main().resume()
    assert disturbed.end() in (75, 128 + signal.SIGTERM)
    assert_it_goes_on(admit, disturbed, undisturbed, committed)


@pytest.mark.long
@pytest.mark.parametrize(
    "moment", ["torch is imported", "after the first step", IN_CI, "the payload is begun"]
)
def test_cancelled_when(admit: Admit, runs: Runs, undisturbed: str, moment: str) -> None:
    disturbed, output = disturb(admit, runs, moment, "cancelled")
    committed = committed_step(output)
    disturbed.cancel()
    disturbed.main().resume()
    disturbed.end(GRACE - 5)  # it answers, so nobody has to wait for the grace to be over
    assert_it_goes_on(admit, disturbed, undisturbed, committed)


@pytest.mark.long
def test_a_cancelled_trainer_that_does_not_answer_is_killed_after_the_grace(
    admit: Admit, runs: Runs, undisturbed: str
) -> None:
    disturbed = admit("training", runs.prepare("stubborn", training=SETTINGS), fresh=True, grace=2.0)
    output = disturbed.run_folder / "acme.support"
    disturbed.wait_for(lambda: committed_step(output))
    disturbed.main().suspend()  # neither SIGINT nor SIGTERM reaches it
    committed = committed_step(output)
    disturbed.cancel()
    disturbed.end(20)
    assert disturbed.cancelled
    assert_it_goes_on(admit, disturbed, undisturbed, committed)


@pytest.mark.long
def test_the_supervisor_is_killed(admit: Admit, runs: Runs, undisturbed: str) -> None:
    disturbed, output = disturb(admit, runs, "half of the steps are made", "unsupervised")
    committed = committed_step(output)
    kill(present(disturbed.main().parent()))
    assert disturbed.end() == 128 + signal.SIGKILL
    assert_it_goes_on(admit, disturbed, undisturbed, committed)
