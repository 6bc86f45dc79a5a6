"""docs/compat.md is what the last run of `make compat` found, for the range that pyproject.toml allows."""

from __future__ import annotations

import re

from tests.compat.matrix import (
    PAGE,
    cells,
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
