"""Interrupted and resumed equals uninterrupted, bit for bit: real processes, real signals."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.training import checkpoints, trainer
from ft_dagster.training.__main__ import main
from ft_dagster.training.stop_signals import STATUS, Stopped
from tests.programs import RunningProgram
from tests.training.runs import Runs, ledger, losses, payload_bytes, result_of, wait_for_step, write_mixture

Start = Callable[..., RunningProgram]
SETTINGS = {"num_train_epochs": 12.0, "evaluations": 4, "keep_last": 4}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> tuple[Runs, Path]:
    """Runs over one mixture, and the folder of one that nobody disturbed."""
    folder = tmp_path_factory.mktemp("resume")
    runs = Runs(folder, tiny_model_folder, write_mixture(folder / "mixture"))
    run_folder = runs.prepare("whole", training=SETTINGS)
    finish(partial(RunningProgram, "training"), run_folder)
    return runs, run_folder


def finish(start: Start, run_folder: Path) -> str:
    """Run it to the end; what it said."""
    process = start(run_folder)
    said, complained = process.communicate()
    assert process.returncode == 0, complained
    return said


def assert_same(run_folder: Path, whole: Path) -> None:
    assert payload_bytes(run_folder) == payload_bytes(whole)
    assert ledger(run_folder) == ledger(whole)
    assert losses(run_folder) == losses(whole)


def test_sigterm_saves_a_checkpoint_and_exits_75_and_the_retry_equals_uninterrupted(
    uninterrupted: tuple[Runs, Path], start: Start
) -> None:
    runs, whole = uninterrupted
    run_folder = runs.prepare("preempted", training=SETTINGS)
    process = start(run_folder)
    wait_for_step(process, run_folder, 2)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    saved = checkpoints.complete(run_folder / "acme.support/checkpoints")
    assert process.returncode == 75
    assert result_of(run_folder)["status"] == "preempted"
    assert saved
    assert f"resuming at step {saved[-1].step}/" in finish(start, run_folder)
    assert_same(run_folder, whole)


def test_sigint_exits_130_and_leaves_no_payload(uninterrupted: tuple[Runs, Path], start: Start) -> None:
    run_folder = uninterrupted[0].prepare("cancelled", training=SETTINGS)
    process = start(run_folder)
    wait_for_step(process, run_folder, 2)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert (process.returncode, result_of(run_folder)["status"]) == (130, "cancelled")
    assert not (run_folder / "acme.support/payload").exists()


def test_sigterm_before_training_exits_75_at_once(uninterrupted: tuple[Runs, Path], start: Start) -> None:
    run_folder = uninterrupted[0].prepare("early", training=SETTINGS)
    process = start(run_folder)
    while not (run_folder / "acme.support").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    assert process.returncode == 75, said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@pytest.mark.parametrize("made_of_it", [SystemError, None], ids=["another error", "nothing"])
def test_a_signal_whose_exception_is_lost_ends_the_training_all_the_same(
    uninterrupted: tuple[Runs, Path],
    monkeypatch: pytest.MonkeyPatch,
    made_of_it: type[Exception] | None,
    number: signal.Signals,
    code: int,
) -> None:
    """An extension makes a SystemError of what is raised while it calls back; a destructor drops it."""
    run_folder = uninterrupted[0].prepare(f"lost-{number}-{made_of_it}", training=SETTINGS)
    build = trainer.build_trainer

    def lose(*arguments: Any) -> Any:
        built = build(*arguments)
        try:
            signal.raise_signal(number)
        except Stopped:
            if made_of_it is not None:
                raise made_of_it("returned a result with an exception set") from None
        return built

    monkeypatch.setattr(trainer, "build_trainer", lose)
    assert main([str(run_folder)]) == code
    assert result_of(run_folder)["status"] == STATUS[code]
    assert not (run_folder / "acme.support/payload").exists()


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_the_end_is_the_same(
    uninterrupted: tuple[Runs, Path], start: Start
) -> None:
    runs, whole = uninterrupted
    run_folder = runs.prepare("damaged", training=SETTINGS)
    shutil.copytree(whole / "acme.support/checkpoints", run_folder / "acme.support/checkpoints")
    shutil.copytree(whole / "acme.support/evidence", run_folder / "acme.support/evidence")
    *_, before, newest = checkpoints.complete(run_folder / "acme.support/checkpoints")
    state = newest.folder / "optimizer.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    said = finish(start, run_folder)
    assert f"checkpoint-{newest.step}: optimizer.pt is damaged, passed over" in said
    assert f"resuming at step {before.step}/" in said
    assert_same(run_folder, whole)


def test_progress_is_reported_through_dagster_pipes(
    uninterrupted: tuple[Runs, Path], start: Start, tmp_path: Path
) -> None:
    from dagster_pipes import encode_param

    (tmp_path / "context.json").write_text(json.dumps({"extras": {}}))
    messages = tmp_path / "messages.jsonl"
    messages.touch()
    process = start(
        uninterrupted[0].prepare("piped", training={"max_steps": 2, "watch": {"budget": None}}),
        DAGSTER_PIPES_CONTEXT=encode_param({"path": str(tmp_path / "context.json")}),
        DAGSTER_PIPES_MESSAGES=encode_param({"path": str(messages)}),
    )
    said, _ = process.communicate()
    sent = [json.loads(line) for line in messages.read_text().splitlines()]
    lines = [m["params"]["message"] for m in sent if m["method"] == "log"]
    custom = [m["params"]["payload"] for m in sent if m["method"] == "report_custom_message"]
    assert process.returncode == 0, said
    assert [line for line in lines if line in said] == []
    assert any(line.startswith("step 2/2  loss ") and "tok/s  ETA" in line for line in lines)
    assert {message["type"] for message in custom} == {"progress", "evaluation"}


def test_a_broken_run_file_exits_2_with_one_line(tmp_path: Path, start: Start) -> None:
    (tmp_path / "run.json").write_text("{")
    process = start(tmp_path)
    _, complained = process.communicate()
    assert process.returncode == 2
    assert complained.count("\n") == 1
    assert "error" in json.loads((tmp_path / "result.json").read_text())
