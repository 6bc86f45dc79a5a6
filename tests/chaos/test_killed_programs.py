"""Evaluation, merge and adapter export are killed at moments of theirs; run again, they leave the same."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.disturbed_runs import Admit, DisturbedRun, digest_of, kill, loaded
from tests.evaluation.questions import write_run, write_task
from tests.export.exports import MakeAdapter, MakeRequest

pytestmark = [pytest.mark.slow, pytest.mark.long]
Moment = Callable[[DisturbedRun, Path], object]
FORMATS = ("adapter", "merged")


def asked(output: Path) -> int:
    file = output / "progress.json"
    return json.loads(file.read_text())["done"] if file.exists() else -1


START: dict[str, Moment] = {
    "the interpreter starts": lambda disturbed, _: disturbed.main(),
    "torch is imported": lambda disturbed, _: loaded(disturbed.main().pid, "libtorch_cpu"),
}
EVALUATION: dict[str, Moment] = START | {
    "the first question is asked": lambda _, output: asked(output) >= 0,
    "a question is answered": lambda _, output: asked(output) > 0,
    "the scores are written": lambda _, output: (output / "payload/samples.parquet").exists(),
    "the result is written": lambda _, output: (output / "result.json").exists(),
}


def in_payload(output: Path, part: str) -> list[str]:
    """The names in the payload, which may be begun anew meanwhile, that hold `part`."""
    with suppress(FileNotFoundError):
        return [name for name in os.listdir(output / "payload") if part in name]
    return []


EXPORT: dict[str, Moment] = START | {
    "the payload is begun": lambda _, output: in_payload(output, ""),
    "the weights are begun": lambda _, output: in_payload(output, ".safetensors"),
    "the certificate is written": lambda _, output: (output / "evidence/certificate.json").exists(),
    "the card is written": lambda _, output: (output / "evidence/README.md").exists(),
}


def left_alone(admit: Admit, program: str, run_folder: Path) -> str:
    """The digest of what it makes."""
    disturbed = admit(program, run_folder)
    assert disturbed.end() == 0, disturbed.said
    return digest_of(run_folder / "output/payload")


def killed(admit: Admit, program: str, run_folder: Path, moment: Moment) -> None:
    """It came to that moment, was killed there, and left nothing."""
    disturbed = admit(program, run_folder)
    disturbed.wait_for(lambda: moment(disturbed, run_folder / "output"))
    kill(disturbed.main())
    assert disturbed.end() == 128 + signal.SIGKILL
    disturbed.assert_nothing_is_left()


@pytest.mark.parametrize("moment", EVALUATION)
def test_an_evaluation_is_killed_when(
    admit: Admit, tmp_path: Path, tiny_model_folder: Path, moment: str
) -> None:
    write_task(tmp_path, "forms", 400)
    questions = {"general": ["forms.yaml"], "limit": None, "seed": 0, "num_fewshot": None}
    whole = write_run(tmp_path / "whole", tiny_model_folder, **questions)
    run = write_run(tmp_path / "killed", tiny_model_folder, **questions)
    killed(admit, "evaluation", run, EVALUATION[moment])
    assert left_alone(admit, "evaluation", run) == left_alone(admit, "evaluation", whole)


@pytest.fixture
def request_of(make_adapter: MakeAdapter, make_request: MakeRequest) -> Callable[[str], dict[str, Any]]:
    """The request to export a fresh adapter in a format."""
    return lambda form: make_request(make_adapter(), format=form)


def write_request(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({**content, "output": str(folder / "output")}), "utf-8")
    return folder


@pytest.mark.parametrize(("form", "moment"), [(form, moment) for form in FORMATS for moment in EXPORT])
def test_an_export_is_killed_when(
    admit: Admit, request_of: Callable[[str], dict[str, Any]], tmp_path: Path, form: str, moment: str
) -> None:
    content = request_of(form)
    whole, run = (write_request(tmp_path / name, content) for name in ("whole", "killed"))
    killed(admit, "export", run, EXPORT[moment])
    assert left_alone(admit, "export", run) == left_alone(admit, "export", whole)
