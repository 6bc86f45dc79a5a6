"""Evaluation, merge and adapter export are killed at moments of theirs; run again, they leave the same."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.disturbed_runs import Admit, DisturbedRun, digest_of, kill, loaded
from tests.evaluation.questions import write_run, write_task
from tests.export.exports import MakeAdapter, MakeRequest

pytestmark = [pytest.mark.slow, pytest.mark.long]
Moment = Callable[[DisturbedRun], object]
FORMATS = ("adapter", "merged")


START: dict[str, Moment] = {
    "the interpreter starts": lambda disturbed: disturbed.main(),
    "torch is imported": lambda disturbed: loaded(disturbed.main().pid, "libtorch_cpu"),
}
# Of the others: the file that is there from then on.
EVALUATION = {
    "the first question is asked": "progress.json",
    "the scores are written": "payload/samples.parquet",
    "the result is written": "result.json",
}
EXPORT = {
    "the payload is begun": "payload/*",
    "the weights are begun": "payload/*.safetensors*",
    "the certificate is written": "evidence/certificate.json",
    "the card is written": "evidence/README.md",
}


def left_alone(admit: Admit, program: str, run_folder: Path) -> str:
    """The digest of what it makes."""
    disturbed = admit(program, run_folder)
    assert disturbed.end() == 0, disturbed.said
    return digest_of(run_folder / "output/payload")


def killed(admit: Admit, program: str, run_folder: Path, moment: str, files: dict[str, str]) -> None:
    """It came to that moment, was killed there, and left nothing."""
    if moment in START:
        disturbed = admit(program, run_folder, fresh=True)
        disturbed.wait_for(lambda: START[moment](disturbed))
    else:
        disturbed = admit(program, run_folder, fresh=True, stop_file=f"output/{files[moment]}")
        disturbed.wait_for(disturbed.stop_mark.exists)
    kill(disturbed.main())
    assert disturbed.end() == 128 + signal.SIGKILL
    disturbed.assert_nothing_is_left()


@pytest.mark.parametrize("moment", [*START, *EVALUATION])
def test_an_evaluation_is_killed_when(
    admit: Admit, tmp_path: Path, tiny_model_folder: Path, moment: str
) -> None:
    write_task(tmp_path, "forms", 400)
    questions = {"general": ["forms.yaml"], "limit": None, "seed": 0, "num_fewshot": None}
    whole = write_run(tmp_path / "whole", tiny_model_folder, **questions)
    run = write_run(tmp_path / "killed", tiny_model_folder, **questions)
    killed(admit, "evaluation", run, moment, EVALUATION)
    assert left_alone(admit, "evaluation", run) == left_alone(admit, "evaluation", whole)


@pytest.fixture
def request_of(make_adapter: MakeAdapter, make_request: MakeRequest) -> Callable[[str], dict[str, Any]]:
    """The request to export a fresh adapter in a format."""
    return lambda form: make_request(make_adapter(), format=form)


def write_request(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({**content, "output": str(folder / "output")}), "utf-8")
    return folder


@pytest.mark.parametrize("moment", [*START, *EXPORT])
@pytest.mark.parametrize("form", FORMATS)
def test_an_export_is_killed_when(
    admit: Admit, request_of: Callable[[str], dict[str, Any]], tmp_path: Path, form: str, moment: str
) -> None:
    content = request_of(form)
    whole, run = (write_request(tmp_path / name, content) for name in ("whole", "killed"))
    killed(admit, "export", run, moment, EXPORT)
    assert left_alone(admit, "export", run) == left_alone(admit, "export", whole)
