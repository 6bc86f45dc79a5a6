"""docs/compat.md is what the last run of `make compat` found, for the range that pyproject.toml allows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.compat.matrix import (
    PAGE,
    Outcome,
    cells,
    interpreter,
    last_line,
    oldest_dagster,
    page,
    recorded,
)


def test_the_page_is_of_the_last_run() -> None:
    assert PAGE.read_text("utf-8") == page(recorded()), "run `make compat`"


def test_what_was_tried_passed() -> None:
    outcomes = recorded()
    assert {"3.11-oldest", "3.11-newest", "3.13-newest"} <= set(outcomes)
    assert [name for name, outcome in outcomes.items() if not outcome.passed] == []


def test_each_python_has_both_ends_of_dagster() -> None:
    names = [cell.name for cell in cells()]
    assert (names[:2], names[-1]) == (["3.11-oldest", "3.11-newest"], "3.13-newest")
    assert len(names) == 6
    oldest = oldest_dagster()
    assert len(oldest) == 4
    assert all(re.fullmatch(r"dagster(-\w+)?==[\d.]+", each) for each in oldest)


def test_the_oldest_that_was_tried_is_the_oldest_that_is_allowed() -> None:
    tried = {outcome.dagster for name, outcome in recorded().items() if name.endswith("-oldest")}
    assert tried == {oldest_dagster()[0].partition("==")[2]}


def test_a_cell_that_fails_shows_the_line_and_one_without_a_try_says_so() -> None:
    line = last_line("Traceback\nImportError: a | b\n")
    made = page({"3.13-newest": Outcome("2026-11-27", "3.13.5", "1.13.29", {"loads": line})})
    row = r"| 3.13.5 | 1.13.29 (newest) | ImportError: a \| b |  |  |  | 2026-11-27 |"
    assert row in made.splitlines()
    assert made.count("| not yet |") == 5


def test_a_python_that_is_there_and_does_not_run_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, status in (("shim", 127), ("real", 0)):
        program = tmp_path / name / "python3.11"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\nexit {status}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'shim'}:{tmp_path / 'real'}:/bin")
    assert interpreter("3.11") == str(tmp_path / "real" / "python3.11")
    assert interpreter("3.99") is None
