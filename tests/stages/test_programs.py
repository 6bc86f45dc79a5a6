"""How a workspace runs a stage's programs: where, and what is left of one that stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from ft_dagster.evaluation.request import TextsRequest
from ft_dagster.launch.launcher import Job, Say
from ft_dagster.program import ProgramResult
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import TRAINING_PLAN
from ft_dagster.store import Attempt, Place, make
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.programs import TrainingStopped
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import write_project

KEY = VariantKey("acme", "places")


class AtOnce:
    """A launcher whose programs have ended when they start, with a result that is given."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result
        self.run_dirs: list[Path] = []

    def stage_in(self, job: Job) -> None:
        job.write_request()

    def start(self, job: Job, say: Say) -> Job:
        self.run_dirs.append(job.run_dir)
        job.result_file.write_text(json.dumps(self.result))
        (job.run_dir / "output" / "evidence").mkdir(exist_ok=True)
        (job.run_dir / "output" / "evidence" / "log.jsonl").write_text("{}\n")
        return job

    def report(self, started: Job, say: Say) -> int:
        return 0

    def cancel(self, started: Job) -> None:
        raise AssertionError("nothing is left to cancel")

    def collect(self, job: Job, started: Job, exit_code: int) -> ProgramResult:
        return job.read_result(exit_code)


@pytest.fixture
def desk(tmp_path: Path) -> Callable[[AtOnce], Workspace]:
    folder = write_project(tmp_path / "project", tmp_path / "base")
    return lambda launcher: Workspace(load_settings(folder), KEY, launcher=launcher)


def asked(output: Path) -> TextsRequest:
    return TextsRequest(tasks={}, output=output)


def test_a_training_that_gave_up_leaves_its_place_to_who_asks_for_the_same(
    desk: Callable[[AtOnce], Workspace], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "output").mkdir(parents=True)
    (run_dir / "output" / "log.jsonl").write_text("{}\n")
    workspace = desk(AtOnce({"status": "stopped"}))
    with pytest.raises(TrainingStopped) as stopped:
        workspace.run_program("training", run_dir, asked(run_dir / "output"), leased=False)
    assert not run_dir.exists()
    assert (stopped.value.run_dir / "output" / "log.jsonl").exists()


def test_a_stages_second_program_runs_in_a_folder_of_its_own(
    desk: Callable[[AtOnce], Workspace], tmp_path: Path
) -> None:
    launcher = AtOnce({"status": "done", "figures": {}})
    context = BuildContext(desk(launcher))
    attempt = Attempt(Place(KEY.prefix, "model_export", "0" * 64), "attempt", tmp_path / "attempt", True)
    context.run("export", attempt, asked, leased=False)
    context.run("evaluation", attempt, asked, leased=False, into=tmp_path / "own")
    first, second = launcher.run_dirs
    assert first != second
    assert first.parent == second.parent


def test_a_folder_of_tries_of_which_a_half_was_removed_stops_no_try(
    desk: Callable[[AtOnce], Workspace], tmp_path: Path
) -> None:
    launcher = AtOnce({"status": "done", "figures": {}})
    workspace = desk(launcher)
    attempt = Attempt(Place(KEY.prefix, "model_export", "0" * 64), "attempt", tmp_path / "attempt", True)
    run_dir = workspace.run_dir(attempt)
    run_dir.mkdir(parents=True)
    (run_dir / "output").symlink_to("output-01234567")
    BuildContext(workspace).run("export", attempt, asked, leased=False)
    assert launcher.run_dirs == [run_dir]


@dataclass(frozen=True)
class Nothing:
    """What a stage is made from that reads nothing."""

    number: int = 1


def test_what_a_program_left_is_kept_until_it_is_committed(
    desk: Callable[[AtOnce], Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage fails after hours of training: the next try goes on from the checkpoints."""
    launcher = AtOnce({"status": "done", "figures": {}})
    workspace = desk(launcher)
    stage = Stage(
        TRAINING_PLAN,
        reads=(),
        fields=(),
        inputs=lambda view: Nothing(),
        build=lambda inputs, context, attempt: context.run("training", attempt, asked, leased=False),
    )

    def commit(*_: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patched:
        patched.setattr(make, "commit_attempt", commit)
        with pytest.raises(ConnectionError):
            workspace.make(stage)
    (run_dir,) = launcher.run_dirs
    (run_dir / "output" / "checkpoints").mkdir()
    assert (run_dir / "output" / "evidence" / "log.jsonl").exists()
    workspace.make(stage)
    assert launcher.run_dirs == [run_dir, run_dir]
    assert not run_dir.exists()


def test_a_run_that_waits_for_another_of_the_same_work_folder_says_so(
    desk: Callable[[AtOnce], Workspace],
) -> None:
    launcher, told = AtOnce({"status": "done", "figures": {}}), SimpleQueue[str]()
    workspace = desk(launcher)
    workspace = replace(workspace, run=replace(workspace.run, say=told.put))
    stage = Stage(
        TRAINING_PLAN,
        reads=(),
        fields=(),
        inputs=lambda view: Nothing(),
        build=lambda inputs, context, attempt: context.run("training", attempt, asked, leased=False),
    )
    place = workspace.recipe(stage)[0].place
    with ThreadPoolExecutor(1) as pool, make.host_lock(workspace.settings.work_folder, place.path):
        made = pool.submit(workspace.make, stage)
        assert "waits for training_plan, which another process makes in " in told.get(timeout=60)
        assert launcher.run_dirs == []
    assert made.result(60).place == place
