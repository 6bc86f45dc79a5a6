"""Programs forked with their libraries imported make, byte for byte, what freshly started ones make."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.launch.local import run_program
from ft_dagster.launch.warm import choice, imports, world
from ft_dagster.provenance.digest import hash_folder, payload_digest
from tests.evaluation.questions import write_run, write_task
from tests.training.runs import Runs

pytestmark = pytest.mark.slow
SHORT = {"max_steps": 2, "num_train_epochs": 1.0, "evaluations": 1}


def made(program: str, run_folder: Path, outputs: list[str], start: str, threads: int) -> list[str]:
    """The digests of what a program makes; its folder is new, and its threads are given as by a lease."""
    given = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    environment = {choice.START: start, **given}
    log = run_folder / "log"
    code = run_program(f"ft_dagster.{program}", run_folder, environment=environment, output=log)
    assert code == 0, log.read_text()
    return [payload_digest(hash_folder(run_folder / output / "payload")) for output in outputs]


@pytest.fixture(autouse=True)
def forked_if_asked(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The server with all its libraries serves: no program was started plainly in place of a fork."""
    caplog.set_level("INFO", "ft_dagster.launch")
    return caplog


@pytest.mark.parametrize(
    ("precision", "threads"),
    [
        ("fp32", 1),
        ("bf16", 2),
        ("fp32", 2),
        ("bf16", 1),
    ],
)
@pytest.mark.long
def test_a_forked_trainer_trains_the_same_weights(
    runs: Runs, precision: str, threads: int, forked_if_asked: pytest.LogCaptureFixture
) -> None:
    training = {**SHORT, "precision": precision}
    digests = [
        made("training", runs.prepare(start, training=training), ["acme.support"], start, threads)
        for start in ("auto", "off")
    ]
    assert "plain start" not in forked_if_asked.text
    assert digests[0] == digests[1]


def test_a_launcher_that_has_imported_what_programs_need_asks_the_same_server() -> None:
    """Several of these libraries write into the environment of whoever imports them."""
    started_with = Path("/proc/self/environ").read_bytes().split(b"\0")
    for name in imports.WITHOUT_GPU:
        importlib.import_module(name)
    assert "KMP_INIT_AT_FORK" in os.environ
    written = {
        name: said for name, said in os.environ.items() if os.fsencode(f"{name}={said}") not in started_with
    }
    assert world.kept(written) == {}


@pytest.mark.long
def test_forked_ranks_train_the_same_weights(runs: Runs, forked_if_asked: pytest.LogCaptureFixture) -> None:
    """Each is a fork of the trainer that was forked; started plainly, each imports everything itself."""
    training = {**SHORT, "deepspeed": {"stage": 2}}
    options: dict[str, Any] = {"method": {"name": "full"}, "training": training, "ranks": 2}
    digests = [
        made("training", runs.prepare(start, **options), ["acme.support"], start, 2)
        for start in ("auto", "off")
    ]
    assert "plain start" not in forked_if_asked.text
    assert digests[0] == digests[1]


@pytest.mark.long
def test_a_forked_evaluation_scores_the_same(
    tmp_path: Path, tiny_model_folder: Path, forked_if_asked: pytest.LogCaptureFixture
) -> None:
    write_task(tmp_path, "forms", 40)
    questions = {"general": ["forms.yaml"], "limit": None, "seed": 0, "num_fewshot": None}
    digests = [
        made("evaluation", write_run(tmp_path / start, tiny_model_folder, **questions), ["output"], start, 1)
        for start in ("auto", "off")
    ]
    assert "plain start" not in forked_if_asked.text
    assert digests[0] == digests[1]
