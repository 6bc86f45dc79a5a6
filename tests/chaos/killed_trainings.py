"""What a training that was ended left behind, and that it goes on from there."""

from __future__ import annotations

import json
from pathlib import Path

from ft_dagster.training.checkpoints import complete, newest_good
from tests.chaos.disturbed_runs import Admit, DisturbedRun, digest_of
from tests.training.runs import result_of


def whole(file: Path) -> list[dict[str, object]]:
    """The finished lines of a log."""
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def logged(output: Path, step: int, name: str) -> bool:
    return any(line["step"] == step and name in line for line in whole(output / "evidence/log.jsonl"))


def folders(output: Path) -> list[Path]:
    return list((output / "checkpoints").glob("checkpoint-*"))


def half_written(output: Path, file: str = "") -> bool:
    """A checkpoint's folder without its manifest, with `file` in it."""
    return any((f / file).exists() and not (f / "checkpoint.json").exists() for f in folders(output))


def assert_it_goes_on(admit: Admit, disturbed: DisturbedRun, digest: str, committed: int) -> None:
    """Nothing is left, nothing is lost, and the next run ends where the undisturbed one did."""
    disturbed.assert_nothing_is_left()
    output = disturbed.run_folder / "acme.support"
    newest = newest_good(output / "checkpoints")
    assert (newest.step if newest else 0) >= committed
    if (output / "result.json").exists() and result_of(disturbed.run_folder)["status"] == "done":
        assert digest_of(output / "payload") == digest
    again = admit("training", disturbed.run_folder)
    assert again.end() == 0, again.said
    assert digest_of(output / "payload") == digest
    if newest and "already trained" not in again.said:
        assert result_of(disturbed.run_folder)["figures"]["resumed_from"][-1] == newest.step


def committed_step(output: Path) -> int:
    return max((checkpoint.step for checkpoint in complete(output / "checkpoints")), default=0)
