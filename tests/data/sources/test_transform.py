"""A tenant's own transformation of rows: allowed by name, in the key by its source, and pure by row."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from ft_dagster.data.rows.sources import read_rows
from ft_dagster.data.sources.fingerprint import check_unchanged, fingerprint
from ft_dagster.data.sources.locations import DeclaredAt
from ft_dagster.errors import UserError
from ft_dagster.fleet.refresh.listing import WatchedPlace, difference, listing
from ft_dagster.roots import Roots
from ft_dagster.spec.data import DataSpec, RowSource, TenantSource
from ft_dagster.spec.narrow import shown
from tests.e2e.project import write_lines

NAMED = "hooks/rows.py:shorten"
SHORTEN = """
from hooks_words import LONGEST

def shorten(row):
    row["instruction"] = row["instruction"][:LONGEST]
    return row
"""
ROWS = [{"instruction": "Where is it?", "output": "Here."}, {"instruction": "And that?", "output": "There."}]
SOURCE: TenantSource = TypeAdapter(RowSource).validate_python({"path": "rows.jsonl", "transform": NAMED})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_lines(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "hooks").mkdir()
    write(tmp_path, SHORTEN)
    (tmp_path / "hooks" / "hooks_words.py").write_text("LONGEST = 5\n")
    return tmp_path


def write(project: Path, code: str) -> None:
    (project / "hooks" / "rows.py").write_text(code)


def asked(project: Path, *functions: str) -> DeclaredAt:
    roots = Roots(project=project, tenant="acme", folders=(project,), transforms=functions)
    return DeclaredAt("acme/support.yaml", "data.sources[0]", roots)


def read(project: Path) -> list[str]:
    return [row.whole_text for row in read_rows(SOURCE, project, asked(project, NAMED))]


def test_each_row_is_what_the_function_makes_of_it(project: Path) -> None:
    assert read(project) == ["Where\nHere.", "And t\nThere."]


def test_what_the_platform_does_not_name_is_refused_before_it_is_looked_at(project: Path) -> None:
    (project / "hooks" / "rows.py").write_text("raise RuntimeError('was imported')")
    for allowed in ((), ("hooks/rows.py:other",), ("hooks/rows.py",)):
        for looks in (fingerprint, read_rows):
            with pytest.raises(UserError, match="runs Python that the platform does not allow") as raised:
                list(looks(SOURCE, project, asked(project, *allowed)))
            assert "acme/support.yaml: data.sources[0].transform" in str(raised.value)
            assert "sources.functions" in raised.value.fix


def test_a_change_of_its_source_or_of_what_that_imports_is_another_fingerprint(project: Path) -> None:
    place = asked(project, NAMED)
    first = fingerprint(SOURCE, project, place)
    assert first[-1] == {**first[-1], "path": NAMED, "size": 0, "function": True}
    (project / "hooks" / "hooks_words.py").write_text("LONGEST = 6\n")
    second = fingerprint(SOURCE, project, place)
    write(project, SHORTEN + "\n# said otherwise\n")
    third = fingerprint(SOURCE, project, place)
    assert len({str(prints[-1]["sha256"]) for prints in (first, second, third)}) == 3
    assert first[:-1] == second[:-1] == third[:-1]
    with pytest.raises(UserError, match="the source changed after it was declared"):
        check_unchanged(SOURCE, project, first, place, None)


def test_a_listing_of_files_does_not_miss_the_function(project: Path) -> None:
    from datetime import UTC, datetime, timedelta

    frozen = fingerprint(SOURCE, project, asked(project, NAMED))
    listed = listing(WatchedPlace("data", "rows.jsonl"), project, None)
    assert difference(frozen, listed, datetime.now(UTC) + timedelta(minutes=1)) is None


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def shorten(row): return row['no']", r"rows.jsonl:1: .* raised KeyError in rows.py, line 1"),
        ("def shorten(row): return None", r"rows.jsonl:1: the transformation returned no mapping"),
        ("def shorten(row): return {1: 2}", r"rows.jsonl:1: the transformation returned no mapping"),
        (
            "from itertools import count\nn = count()\ndef shorten(row): return {**row, 'group': next(n)}",
            r"rows.jsonl:1: .*transform: the transformation returns another row when it is asked again",
        ),
        ("def other(row): return row", r"data.sources\[0\].transform: no such function"),
        ("shorten = 3", r"data.sources\[0\].transform: no such function"),
        ("import nowhere_at_all", r"cannot be imported: ModuleNotFoundError"),
        ("import sys\nsys.exit(3)", r"cannot be imported: SystemExit: 3"),
        ("import sys\ndef shorten(row): sys.exit(0)", r"rows.jsonl:1: .* raised SystemExit in rows.py,"),
        ("def shorten(): return {}", r"rows.jsonl:1: .*raised TypeError \(got"),
        ("def shorten(row):\n    if row['output'] == 'There.': raise ValueError('bad')\n    return row",
         r"rows.jsonl:2: the transformation raised ValueError in rows.py, line 2"),
    ],
)  # fmt: skip
def test_its_mistakes_name_the_row(project: Path, code: str, said: str) -> None:
    write(project, code)
    with pytest.raises(UserError, match=said):
        read(project)


def test_two_may_have_helpers_of_one_name(project: Path) -> None:
    said = []
    for folder in ("theirs", "ours"):
        (project / folder).mkdir()
        (project / folder / "rows.py").write_text(
            "from helper import SAID\ndef f(row): return {**row, 'output': SAID}"
        )
        (project / folder / "helper.py").write_text(f"SAID = '{folder}'\n")
        source = SOURCE.model_copy(update={"transform": f"{folder}/rows.py:f"})
        said += [row.whole_text for row in read_rows(source, project)][:1]
    assert said == ["Where is it?\ntheirs", "Where is it?\nours"]
    assert "helper" not in sys.modules


def test_a_change_of_it_or_of_what_it_imports_is_what_runs_next(project: Path) -> None:
    assert read(project)[0] == "Where\nHere."
    (project / "hooks" / "hooks_words.py").write_text("LONGEST = 6\n")
    assert read(project)[0] == "Where \nHere."
    write(project, SHORTEN.replace("[:LONGEST]", "[:2]"))
    assert read(project)[0] == "Wh\nHere."


def test_values_of_any_kind_may_be_compared(project: Path) -> None:
    write(project, "import numpy as np\ndef shorten(row): return {**row, 'x': np.zeros(2), 'y': np.nan / 1}")
    assert len(read(project)) == 2


def test_it_cannot_change_what_it_was_given(project: Path) -> None:
    write(project, "def shorten(row):\n    row['output'] += '!'\n    return row")
    assert read(project) == ["Where is it?\nHere.!", "And that?\nThere.!"]


def test_one_of_an_installed_module_is_named_by_it(project: Path) -> None:
    source = SOURCE.model_copy(update={"transform": "copy:deepcopy"})
    rows = read_rows(source, project, asked(project, "copy:deepcopy"))
    assert next(iter(rows)).whole_text == "Where is it?\nHere."


@pytest.mark.parametrize("named", ["nowhere.module:f", "hooks/none.py:f", "sys:exit"])
def test_one_that_is_not_there_is_said(project: Path, named: str) -> None:
    source = SOURCE.model_copy(update={"transform": named})
    with pytest.raises(UserError, match="no such function"):
        fingerprint(source, project, asked(project, named))


def test_a_source_without_one_is_in_the_key_as_it_always_was() -> None:
    before: dict[str, Any] = shown(DataSpec.model_validate({"sources": ["rows.jsonl"]}))["sources"][0]
    assert "transform" not in before
    after = shown(DataSpec(sources=(SOURCE,)))["sources"][0]
    assert after == {**before, "transform": NAMED}
