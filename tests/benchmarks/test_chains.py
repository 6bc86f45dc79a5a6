"""The bench of whole chains: what an earlier call measured is kept, and what it did not finish is not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks import chains

RUNS: dict[str, tuple[str, ...]] = {"v0": ("bench.v0",), "v1": ("bench.v1",)}


def test_a_run_that_was_ended_on_the_way_is_not_timed_by_what_is_left_of_it(tmp_path: Path) -> None:
    for name in RUNS:
        (tmp_path / f"{name}.begun").touch()
    (tmp_path / "v0.seconds").write_text("240.5 1.0")
    with pytest.raises(SystemExit, match="v1 was ended on the way"):
        chains.measured(tmp_path, tmp_path, RUNS, math.inf)
    (tmp_path / "v1.seconds").write_text("230.5 1.0")
    assert chains.measured(tmp_path, tmp_path, RUNS, math.inf) == [240.5, 230.5]


def test_no_run_is_begun_once_the_minutes_are_over(tmp_path: Path) -> None:
    assert chains.measured(tmp_path, tmp_path, RUNS, 0.0) is None
    assert list(tmp_path.iterdir()) == []
