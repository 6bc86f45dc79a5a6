"""The table of docs/security.md names tests that there are, for each actor and what is not stopped too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ACTORS = ("tenant", "UI user", "bucket reader", "bucket writer", "run pod", "host root", "approver")
NOTHING = "—"


def rows_of(text: str) -> list[list[str]]:
    """The cells of each row of the table."""
    table = text.partition("## Who could do what\n")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def missing_tests(rows: list[list[str]]) -> list[str]:
    """What a row names and is no test, and rows that name none and do not say that nothing stops it."""
    found = []
    for actor, asset, stops, *rest in rows:
        named = re.findall(r"`([^`]+)`", rest[0]) if rest else []
        if not named and NOTHING not in stops:
            found.append(f"{actor}, {asset}")
        for one in named:
            file, _, name = one.partition("::")
            path = ROOT / (file if "/" in file else f"tests/security/{file}")
            if not path.is_file() or f"\ndef {name}(" not in path.read_text("utf-8"):
                found.append(one)
    return found


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    return rows_of((ROOT / "docs/security.md").read_text("utf-8"))


def test_each_row_names_a_test_that_there_is_or_says_that_nothing_stops_it(rows: list[list[str]]) -> None:
    assert len(rows) > 20
    assert all(len(row) in (3, 4) for row in rows)
    assert missing_tests(rows) == []


def test_each_actor_is_there_and_what_nothing_stops_is_said(rows: list[list[str]]) -> None:
    for actor in ACTORS:
        own = [row for row in rows if row[0].partition(":")[0] == actor]
        assert own, actor
        assert any(NOTHING in row[2] for row in own), actor


def test_a_test_that_is_gone_is_noticed() -> None:
    known = "`test_doors.py::test_no_field_names_a_path_outside_the_tenants_roots`"
    assert missing_tests([["tenant", "x", "roots", known]]) == []
    gone = [["tenant", "x", "roots", "`test_doors.py::test_gone`"], ["tenant", "y", "roots", ""]]
    assert missing_tests(gone) == ["test_doors.py::test_gone", "tenant, y"]
