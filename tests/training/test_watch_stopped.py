"""A watched training that is stopped is so on all ranks at once, and whether or not it was killed before."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ft_dagster.evaluation.tasks.tasks import tasks_digest
from ft_dagster.training.watch.falls import fall_of
from tests.evaluation.questions import write_task
from tests.present import present
from tests.programs import RunningProgram
from tests.training.methods.taught import habit
from tests.training.runs import Runs, payload_bytes, result_of, wait_for_step, write_mixture

pytestmark = [pytest.mark.slow, pytest.mark.long]
Start = Callable[..., RunningProgram]
LETTERS: dict[str, Any] = {"doc_to_choice": ["a", "k", "x", "Q"], "target_delimiter": ""}
STEPS, LOOKS = 24, 6
EVERY = STEPS // LOOKS
LIMITS = ("general_loss_limit", "benchmark_limit")
SEEN = ("benchmark", "general_holdout_loss", "validation_loss", "degeneration")  # at a look, in the log


class Forgetting(NamedTuple):
    """A training that forgets from look to look. By name of a limit: the benchmark that it is asked, the
    limit, and the step of the look that is beyond it: neither the first nor the last.
    """

    runs: Runs
    limits: dict[str, tuple[str, float, int]]

    def prepare(self, name: str, limit: str, *, ranks: int = 1) -> Path:
        task, value, _ = self.limits[limit]
        return _prepare(self.runs, f"{name}-{limit}", [task], ranks=ranks, **{limit: value})


def _prepare(runs: Runs, name: str, tasks: list[str], *, ranks: int = 1, **watch: Any) -> Path:
    project, files = runs.folder / "project", [f"{task}.yaml" for task in tasks]
    return runs.prepare(
        name,
        ranks=ranks,
        method={"name": "full"},
        benchmarks={"tasks": tasks_digest(files, project), "project": str(project)},
        training={
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "warmup_ratio": 0.0,
            "max_steps": STEPS,
            "evaluations": LOOKS,
            "keep_best": LOOKS,
            "gradient_accumulation_steps": 2 // ranks,
            "watch": {"budget": None, "questions": 30, **watch},
        },
    )


def train(start: Start, run_folder: Path) -> None:
    process = start(run_folder)
    said, _ = process.communicate()
    assert process.returncode == 0, said


def looks(run_folder: Path) -> dict[str, dict[int, Any]]:
    """Name of what is seen -> step -> what was seen."""
    log = (run_folder / "acme.support/evidence/log.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in log]
    return {name: {line["step"]: line[name] for line in found if name in line} for name in SEEN}


def right(run_folder: Path) -> dict[int, float]:
    return {step: seen["mean"] for step, seen in looks(run_folder)["benchmark"].items()}


def decision(run_folder: Path) -> dict[str, Any]:
    figures = result_of(run_folder)["figures"]
    return {name: figures[name] for name in ("stopped", "steps", "best_step")}


@pytest.fixture(scope="module")
def forgetting(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Forgetting:
    """Its limits are taken from the same training without any."""
    folder = tmp_path_factory.mktemp("forgetting")
    mixture = write_mixture(habit(folder / "mixture"), train=0, validation=0)
    runs = Runs(folder, tiny_model_folder, mixture)
    names = [f"always_{gold}" for gold in range(len(LETTERS["doc_to_choice"]))]
    for gold, name in enumerate(names):
        write_task(folder / "project", name, doc_to_target=gold, **LETTERS)
    free = _prepare(runs, "free", names)
    train(lambda run: RunningProgram("training", run), free)
    seen = looks(free)
    general = present(_passed(seen["general_holdout_loss"]))
    for task in names:
        answered = {step: look[task] for step, look in seen["benchmark"].items()}
        fallen = _passed({step: -share for step, share in answered.items()})
        if fallen and _shown(seen["benchmark"], task, fallen[1]):
            return Forgetting(runs, {LIMITS[0]: (task, *general), LIMITS[1]: (task, *fallen)})
    raise AssertionError(f"no benchmark falls at a look amid the training: {seen}")


def _passed(values: dict[int, float]) -> tuple[float, int] | None:
    """A rise from step 0, and the step of the first look that is beyond it: not the first, nor the last."""
    rises = {step: value - values[0] for step, value in values.items() if step}
    for step in sorted(rises)[1:-1]:
        before = max([1e-3, *(each for at, each in rises.items() if at < step)])
        if rises[step] > 1.05 * before:
            return (before + rises[step]) / 2, step
    return None


def _shown(benchmark: dict[int, Any], task: str, at: int) -> bool:
    seen = [
        {"step": step, "benchmark": {"mean": look[task], "answers": {task: look["answers"][task]}}}
        for step, look in benchmark.items()
    ]
    return present(fall_of(seen, at)).shown(LOOKS)


@pytest.mark.parametrize("limit", LIMITS)
def test_two_ranks_stop_at_the_step_at_which_one_does(
    forgetting: Forgetting, start: Start, limit: str
) -> None:
    """One that went on would wait for the other until it is given up."""
    one, two = (forgetting.prepare(f"ranks-{ranks}", limit, ranks=ranks) for ranks in (1, 2))
    for folder in (one, two):
        train(start, folder)
    at = forgetting.limits[limit][2]
    assert decision(one) == decision(two)
    assert (decision(two)["stopped"], decision(two)["steps"]) == ("forgetting", at)
    assert right(two) == right(one)
    for split in ("general_holdout_loss", "validation_loss"):
        assert looks(two)[split] == pytest.approx(looks(one)[split], rel=1e-3)
    ledgers = [json.loads((each / "acme.support/evidence/ledger.json").read_text()) for each in (one, two)]
    assert ledgers[0]["times"] == ledgers[1]["times"]


@pytest.mark.parametrize("limit", LIMITS)
def test_a_watched_training_that_is_killed_between_looks_sees_and_decides_the_same(
    forgetting: Forgetting, start: Start, limit: str
) -> None:
    whole, killed = forgetting.prepare("whole", limit), forgetting.prepare("killed", limit)
    train(start, whole)
    process = start(killed)
    wait_for_step(process, killed, EVERY + 1)
    process.kill()
    process.communicate()
    assert process.returncode == 128 + signal.SIGKILL
    train(start, killed)
    assert result_of(killed)["figures"]["resumed_from"]
    assert looks(killed) == looks(whole)
    assert decision(killed) == decision(whole)
    assert result_of(killed)["figures"]["stop_reason"] == result_of(whole)["figures"]["stop_reason"]
    assert payload_bytes(killed) == payload_bytes(whole)
