"""How often a wrong model is released over many tries: benchmarks/gates_tries.py in small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gates import Family
from benchmarks.gates_tries import COUNTS, SHARED, TRIED, again, held_again, years
from ft_dagster.gate.level import ALPHA, level_of

ROOT = Path(__file__).resolve().parents[2]
DRAWS, SURE = 400, 0.025  # years; three standard errors of a share of 2.5%


@pytest.mark.slow
@pytest.mark.parametrize("questions", COUNTS)
@pytest.mark.parametrize("family", TRIED, ids=lambda family: family.name)
def test_a_year_of_retrains_and_a_sweep_release_what_fell_as_rarely_as_is_stated(
    family: Family, questions: int
) -> None:
    found = years(family, questions, DRAWS)
    assert found.shared <= ALPHA + SURE
    assert found.counts <= ALPHA
    assert found.sweep <= level_of(ALPHA) + SURE
    assert found.former >= found.shared


@pytest.mark.slow
@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("family", TRIED[:2], ids=lambda family: family.name)
def test_models_that_lost_are_released_after_a_release_as_rarely_as_is_stated(
    family: Family, shared: float
) -> None:
    former, now = again(family, 200, shared, DRAWS)
    assert now <= (0.0 if shared == 1.0 else level_of(ALPHA))
    assert shared < 0.5 or former > ALPHA


def test_models_that_lost_are_released_against_another_version_as_rarely_as_is_stated() -> None:
    former, now = held_again(200, 0.2, DRAWS, (10,))[0]
    assert now <= level_of(ALPHA)
    assert former > ALPHA


@pytest.mark.long
def test_one_command_runs_the_simulation_of_each_part_of_the_gate() -> None:
    def said(*words: str) -> str:
        command = [sys.executable, "-m", "benchmarks.gates", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert "5 draws" in said("--membership", "5")
    parts = {path.stem.removeprefix("gates_") for path in (ROOT / "benchmarks").glob("gates_*.py")}
    assert {f"--{part}" for part in parts} <= {*said("--nothing").replace(",", "").split()}
