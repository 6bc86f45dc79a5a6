"""How a workspace runs a stage's programs: where, and what is left of one that stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.evaluation.request import TextsRequest
from ft_dagster.launch.launcher import RESULT_FILE, Job, Say
from ft_dagster.launch.remote.order import RemoteOrder, order_file
from ft_dagster.program import ProgramResult
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import TRAINING_PLAN
from ft_dagster.store import Attempt, Place, make
from ft_dagster.training.oom_retry import wants_halving
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


def test_quantized_bases_are_kept_on_this_host_and_on_no_node_of_a_cluster(
    desk: Callable[[AtOnce], Workspace],
) -> None:
    here = desk(AtOnce({}))
    assert here.bases_kept_in == here.cache / "quantized"
    on_a_cluster = here.settings.model_copy(update={"launcher": "ray"})
    assert replace(here, settings=on_a_cluster).bases_kept_in is None


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


@pytest.mark.parametrize("launcher", ["local", "ray"])
def test_nobody_goes_on_from_what_nodes_left_of_a_training_that_gave_up(
    desk: Callable[[AtOnce], Workspace], tmp_path: Path, launcher: str
) -> None:
    (tmp_path / "run" / "output").mkdir(parents=True)
    workspace = desk(AtOnce({"status": "stopped"}))
    workspace = replace(workspace, settings=workspace.settings.model_copy(update={"launcher": launcher}))
    left_at = f"{KEY.prefix}/fine_tuned_model/{'0' * 64}/nodes/evidence"
    left = [f"{left_at}/order.json", f"{left_at}/output/checkpoints/checkpoint-4/manifest.json"]
    for path in left:
        workspace.store.write(path, b"{}")
    request = asked(tmp_path / "run" / "output")
    with pytest.raises(TrainingStopped):
        workspace.run_program("training", tmp_path / "run", request, leased=False, left_at=left_at)
    assert [workspace.store.exists(path) for path in left] == [launcher == "local"] * 2


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


@pytest.mark.parametrize("launcher", ["local", "ray"])
def test_a_training_is_asked_for_by_what_its_newest_try_on_a_cluster_was(
    desk: Callable[[AtOnce], Workspace], tmp_path: Path, launcher: str
) -> None:
    workspace = desk(AtOnce({"status": "done", "figures": {}}))
    workspace = replace(workspace, settings=workspace.settings.model_copy(update={"launcher": launcher}))
    attempt = Attempt(Place(KEY.prefix, "fine_tuned_model", "0" * 64), "one", tmp_path / "attempt", True)
    halved = {"members": [{"micro_batch_halved": True}]}
    order = RemoteOrder(
        attempt="a" * 32, module="ft_dagster.training", code="c" * 64, request=halved, inputs=(),
        kept_in="checkpoints", whole_with="manifest.json",
    )  # fmt: skip
    file = order_file(workspace.left_by_nodes(attempt))
    workspace.store.write_json(file, order.model_dump(mode="json"))
    found: list[bool] = []

    def request(output: Path) -> TextsRequest:
        found.append(wants_halving(output.parent, output / RESULT_FILE))
        return asked(output)

    BuildContext(workspace).run("training", attempt, request, leased=False)
    assert found[-1] == (launcher == "ray")  # asked before and after what was left there is brought here


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
