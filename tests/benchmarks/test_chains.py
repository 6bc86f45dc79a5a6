"""The bench of whole chains: what an earlier call measured is kept, and what it did not finish is not."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import chains
from benchmarks.peers import environments

RUNS: chains.Runs = {"v0": [], "v1": []}


def test_a_run_that_was_ended_on_the_way_is_not_timed_by_what_is_left_of_it(tmp_path: Path) -> None:
    for name in RUNS:
        (tmp_path / f"{name}.begun").touch()
    (tmp_path / "v0.seconds").write_text("240.5 1.0")
    with pytest.raises(SystemExit, match="v1 was ended on the way"):
        chains.measured(tmp_path, RUNS, math.inf, reuses=True)
    (tmp_path / "v1.seconds").write_text("230.5 1.0")
    assert chains.measured(tmp_path, RUNS, math.inf, reuses=True) == [240.5, 230.5]


def test_no_run_is_begun_once_the_minutes_are_over(tmp_path: Path) -> None:
    assert chains.measured(tmp_path, RUNS, 0.0, reuses=True) is None
    assert list(tmp_path.iterdir()) == []


def test_a_script_that_failed_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "v0.begun").touch()
    found = chains.measured(tmp_path, {"v0": []}, math.inf, reuses=False)
    assert found is not None
    assert found[0] < 5


def test_scripts_train_on_as_many_tokens_as_are_trained_on_here(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "rows.jsonl"
    row = {"instruction": "Which key is it?", "output": "The green one, on the second hook."}
    data.write_text("".join(json.dumps(row) + "\n" for _ in range(400)))
    monkeypatch.setattr(environments, "python_of", lambda peer: Path("python"))
    given = Namespace(model=tiny_model_folder, data=data, tokens=2000, variants=2)
    runs = chains.by_scripts(tmp_path, given)
    assert list(runs) == ["base", "v0", "v1"]
    train, judge = runs["v1"]
    job = json.loads(Path(train.asked[-1]).read_text())
    tokens = sum(len(each["input_ids"]) for each in json.loads(Path(job["rows"]).read_text())["train"])
    assert 0 <= tokens - 2000 * 0.72 / 0.92 < 100
    assert f"peft={job['adapter']}" in " ".join(map(str, judge.asked))
    assert "peft=" not in " ".join(map(str, runs["base"][0].asked))
