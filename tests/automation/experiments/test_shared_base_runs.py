"""Runs that take turns on one loaded base: what is shared, and what a run that breaks takes along."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ft_dagster.automation.experiments import shared_base_runs
from ft_dagster.automation.experiments.experiments import ExperimentRun, Limits
from ft_dagster.automation.experiments.shared_base_runs import (
    WaitingTraining,
    _of_one_base,
    carry_out_in_turns,
)
from ft_dagster.launch.launcher import Job
from ft_dagster.store import Place
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.workspace import Workspace

HERE, THERE = (Place("tenants/acme/places", "fine_tuned_model", key * 64) for key in "ab")


def test_of_runs_that_share_a_training_one_takes_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_base_runs, "_kind", lambda job: ("one base",))
    places = enumerate((HERE, HERE, THERE), 1)
    waiting = [WaitingTraining(n, cast(Workspace, None), place, cast(Job, None)) for n, place in places]
    (turn,) = _of_one_base(waiting)
    assert {each.place for each in turn} == {HERE, THERE}
    assert list(_of_one_base(waiting[:2])) == []


def test_a_run_that_breaks_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def carried(experiment: Any, run: ExperimentRun, *_: Any) -> None:
        if run.number == 1:
            raise OSError("the store is gone")
        run.status = "done"

    monkeypatch.setattr(shared_base_runs, "_trained_in_turns", lambda *_: frozenset())
    monkeypatch.setattr(shared_base_runs, "launcher_of", lambda *_: None)
    monkeypatch.setattr(shared_base_runs, "of_host", lambda _: None)
    monkeypatch.setattr(shared_base_runs, "carried", carried)
    experiment = cast(Any, SimpleNamespace(settings=SimpleNamespace(host=None), log=tmp_path / "log"))
    runs, ended = [ExperimentRun(number, str(number), {}) for number in (1, 2)], list[int]()
    carry_out_in_turns(experiment, runs, Limits(), print, lambda run: ended.append(run.number))
    assert [run.status for run in runs] == ["failed", "done"]
    assert "OSError: the store is gone" in str(runs[0].error)
    assert ended == [1, 2]


def test_what_was_taken_of_a_program_is_not_taken_for_its_result_again(tmp_path: Path) -> None:
    output = tmp_path / "run" / "output"

    def run_program(*_: Any, **__: Any) -> dict[str, Any]:
        (output / "payload").mkdir()
        (output / "payload" / "weights").write_text("trained")
        (output / "result.json").write_text('{"status": "done"}')
        return {"figures": {"steps": 3}}

    workspace = SimpleNamespace(
        run_dir=lambda *_: tmp_path / "run",
        left_by_nodes=lambda *_: "",
        recall=lambda *_: None,
        output_of_try=lambda run_dir: run_dir / "output",
        run_program=run_program,
    )
    attempt = SimpleNamespace(folder=tmp_path / "attempt")
    figures = BuildContext(cast(Any, workspace)).run(
        "training", cast(Any, attempt), lambda _: cast(Any, None)
    )
    assert figures == {"steps": 3}
    assert (tmp_path / "attempt" / "payload" / "weights").read_text() == "trained"
    assert not (output / "result.json").exists()
