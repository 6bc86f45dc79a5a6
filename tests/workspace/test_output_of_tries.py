"""The output folder of each try where several nodes share one file system."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ft_dagster.host_settings import RAY_JOB
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.training.checkpoints import MANIFEST
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.kept_training import begin_anew, clear_scratch


def write(file: Path, text: str = "") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")


def leave(output: Path, *steps: int) -> None:
    """What a try leaves: whole checkpoints at these steps, one that is not, a log and a result."""
    for step in steps:
        write(output / f"checkpoints/checkpoint-{step}/{MANIFEST}", str(step))
    write(output / "checkpoints/checkpoint-99/weights")
    write(output / "evidence/log.jsonl", "a step\n")
    write(output / "result.json", "{}")
    write(output / "payload/adapter", "half of it")


def files_in(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def wholes(*steps: int) -> set[str]:
    return {f"checkpoints/checkpoint-{step}/{MANIFEST}" for step in steps}


LOGS = {"evidence/log.jsonl", "result.json"}


def test_a_try_has_the_logs_and_whole_checkpoints_of_the_one_before_and_no_more(tmp_path: Path) -> None:
    leave(tmp_path / "output", 3, 6)  # as fetched from the store
    first = begin_anew(tmp_path)
    assert files_in(first) == wholes(3, 6) | LOGS
    leave(first, 3, 6, 9)
    second = begin_anew(tmp_path)
    assert files_in(second) == wholes(3, 6, 9) | LOGS
    assert (tmp_path / "output").resolve() == second
    assert [*tmp_path.glob("output-*")] == [second]


def test_a_try_before_it_that_lives_on_writes_nothing_into_it(tmp_path: Path) -> None:
    first = begin_anew(tmp_path)
    leave(first, 3)
    with (first / "evidence/log.jsonl").open("a") as log:
        second = begin_anew(tmp_path)
        log.write("another step\n")
    with pytest.raises(FileNotFoundError):
        (first / "evidence/log.jsonl").open("a")
    write(first / "result.json", "preempted")  # which makes its folder again
    assert (second / "evidence/log.jsonl").read_text() == "a step\n"
    assert (second / "result.json").read_text() == "{}"
    assert begin_anew(tmp_path).joinpath("result.json").read_text() == "{}"
    assert not first.exists()


@pytest.mark.parametrize("linked", [False, True])
def test_what_is_interrupted_at_any_moment_loses_no_checkpoint_and_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    acts = [
        (Path, "rename"),
        (Path, "symlink_to"),
        (Path, "replace"),
        (shutil, "copytree"),
        (shutil, "rmtree"),
    ]
    for moment in count():
        run_dir = tmp_path / str(moment)
        (run_dir / "output").mkdir(parents=True)
        leave(begin_anew(run_dir) if linked else run_dir / "output", 3, 6)
        left = [moment]
        with monkeypatch.context() as patched:
            for owner, name in acts:
                patched.setattr(owner, name, interrupted(getattr(owner, name), left))
            try:
                begin_anew(run_dir)
            except KeyboardInterrupt:
                pass
            else:
                break
        (run_dir / "output").mkdir(exist_ok=True)  # as who asks for it does
        assert files_in(begin_anew(run_dir)) >= wholes(3, 6) | {"evidence/log.jsonl"}
    assert moment > 4


def interrupted(act: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def acts(*arguments: Any, **named: Any) -> Any:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return act(*arguments, **named)

    return acts


def test_a_nodes_disk_keeps_nothing_for_long_of_trainings_that_went_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tenants").mkdir()
    monkeypatch.setenv("FT_DAGSTER_WORK", str(tmp_path / "work"))
    settings = load_settings(tmp_path)
    folders = {}
    for variant, days in {"acme.left": 8, "acme.young": 6, "acme.own": 8}.items():
        folders[variant] = tmp_path / "work/runs" / variant / "fine_tuned_model-0123456789abcdef"
        leave(folders[variant] / "output", 3)
        at = time.time() - days * 86_400
        for path in (folders[variant], *folders[variant].rglob("*")):
            os.utime(path, (at, at))

    def stand() -> set[str]:
        return {variant for variant, folder in folders.items() if folder.exists()}

    clear_scratch(settings, VariantKey.parse("acme.own"))
    assert stand() == {*folders}  # a host has somebody who looks after it
    monkeypatch.setenv(RAY_JOB, "0f1e2d3c")
    clear_scratch(settings, VariantKey.parse("acme.own"))
    assert stand() == {"acme.young", "acme.own"}


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
