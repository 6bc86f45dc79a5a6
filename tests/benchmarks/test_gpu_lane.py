"""The lane for a machine with a GPU, on the CPU at toy sizes: it runs, resumes, and says what is wrong."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.benchmarks.lane import LANE, Run

STAGES = ("machine", "right", "foretold", "fast", "judged", "dagster", "bounded")


def result(out: Path, stage: str) -> dict[str, Any]:
    return json.loads((out / f"{stage}.json").read_text())


def copied(packed: Path, tmp_path: Path) -> Path:
    """The loads, to be harmed."""
    loads = tmp_path / "loads"
    for load in packed.glob("load-*"):
        shutil.copytree(load, loads / load.name)
    return loads


@pytest.mark.long
def test_every_stage_runs_at_toy_size_without_a_gpu(lane: Run, packed: Path, tmp_path: Path) -> None:
    done = lane("--loads", packed, "--budget", 3000, "--limit", 900)
    cases = {
        (stage, name): case
        for stage in STAGES
        for name, case in result(tmp_path / "out", stage)["cases"].items()
    }
    wrong = {key: case for key, case in cases.items() if case["status"] not in ("done", "skipped")}
    assert not wrong, done.stdout
    assert done.returncode == 0
    skipped = [name for (_, name), case in cases.items() if case["status"] == "skipped"]
    assert all(name.startswith("135M") or name.endswith(" told") for name in skipped)
    done_stages = {stage for (stage, _), case in cases.items() if case["status"] == "done"}
    assert done_stages == {*STAGES} - {"bounded"}  # whose kernels run on a GPU alone
    assert len(list((tmp_path / "out").iterdir())) <= 9
    assert sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) < 4e6


@pytest.mark.long
@pytest.mark.slow
def test_a_stage_writes_what_the_machine_is_and_the_next_call_keeps_it(
    lane: Run, packed: Path, tmp_path: Path
) -> None:
    first = lane("--loads", packed, "--stage", "machine")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "half 2" not in first.stdout
    cases = result(tmp_path / "out", "machine")["cases"]
    assert {name: case["status"] for name, case in cases.items()} == dict.fromkeys(cases, "done")
    assert cases["inventory"]["kind"] == "cpu"
    assert cases["rates"]["product_flops"] > 0
    assert cases["lease"]["seen"] == {"visible": "", "count": 0, "threads": str(len(cases["lease"]["held"]))}
    assert "| machine | lease | done |" in (tmp_path / "out" / "table.md").read_text()
    # Without the loads: what was unpacked before is enough, and nothing is measured again.
    again = lane("--loads", tmp_path / "none", "--stage", "machine")
    assert again.returncode == 0, again.stderr
    assert result(tmp_path / "out", "machine")["cases"] == cases


@pytest.mark.slow
@pytest.mark.long
def test_a_stage_past_its_limit_is_ended_with_its_children_and_the_next_goes_on(
    lane: Run, packed: Path, tmp_path: Path
) -> None:
    done = lane("--loads", packed, "--stage", "right", "--stage", "foretold", "--limit", 6)
    for stage in ("right", "foretold"):
        found = result(tmp_path / "out", stage)
        assert (found["status"], found["reason"]) == ("ended", "past its 6 s: ended with its children")
        assert all(case["status"] == "ended" for case in found["cases"].values())
    assert "foretold: ended" in done.stdout
    assert running_below(tmp_path) == []


def running_below(folder: Path) -> list[str]:
    """Command lines of processes that name a path of this test."""
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(folder) in line]


@pytest.mark.slow
def test_a_damaged_first_load_is_named_and_nothing_runs(lane: Run, packed: Path, tmp_path: Path) -> None:
    loads = copied(packed, tmp_path)
    file = loads / "load-1" / "tiny" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "load.json").write_text("{")  # of a call that was cut off
    done = lane("--loads", loads)
    assert done.returncode == 2
    assert "load-1 is set aside: tiny/model.safetensors is damaged; copy it again" in done.stdout
    assert "the first load holds the source" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_python_than_the_packs_is_said_first(lane: Run, packed: Path, tmp_path: Path) -> None:
    loads = copied(packed, tmp_path)
    for file in loads.glob("*/load.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "python": "3.7"}))
    done = lane("--loads", loads)
    assert done.returncode == 2
    assert done.stdout == ""
    here = "{}.{}".format(*sys.version_info)
    assert "made for Python 3.7" in done.stderr
    assert f"pack.py --python {here}" in done.stderr


@pytest.mark.long
def test_results_of_another_machine_are_not_mixed_with_new_ones(
    lane: Run, packed: Path, tmp_path: Path
) -> None:
    other = {"card": "NVIDIA H100", "libraries": {"torch": "2.11.0"}}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "fast.json").write_text(json.dumps({"status": "done", "machine": other, "cases": {}}))
    done = lane("--loads", packed, "--stage", "machine", "--budget", 0)
    assert done.returncode == 2
    assert "fast.json: results of another machine (NVIDIA H100)" in done.stderr
    assert "--fresh" in done.stderr


@pytest.mark.long
def test_an_interrupted_call_leaves_nothing_running(packed: Path, tmp_path: Path) -> None:
    command = [sys.executable, LANE, "--cpu", "--loads", packed, "--stage", "right", "--budget", "600"]
    command += ["--out", tmp_path / "out", "--work", tmp_path / "work"]
    lane = psutil.Popen(list(map(str, command)))
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "out" / "right.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        lane.send_signal(2)
        assert lane.wait(60) == 130
    finally:
        if lane.is_running():
            lane.kill()
    assert running_below(tmp_path) == []
