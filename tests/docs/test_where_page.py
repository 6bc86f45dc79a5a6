"""docs/where.md answers each question by a file and a name that the package has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "where.md").read_text("utf-8")
ROW = re.compile(r"^\| ([^|`]+\?) \| `([\w/]+\.py)` \| `([\w.]+)` \|$", re.MULTILINE)


def defined(file: Path) -> set[str]:
    """Return what a module defines at its top, and the methods of its classes, dotted."""
    names = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return names


def test_each_question_names_a_file_and_what_it_defines() -> None:
    rows = ROW.findall(PAGE)
    assert len(rows) == len({question for question, _, _ in rows}) == PAGE.count("? |") >= 40
    wrong = [
        f"{file}: {name}"
        for _, file, name in rows
        if not (path := ROOT / "ft_dagster" / file).is_file() or name not in defined(path)
    ]
    assert wrong == []


def test_contributors_and_the_front_page_are_led_there() -> None:
    for page in ("CONTRIBUTING.md", "README.md"):
        assert "(docs/where.md)" in (ROOT / page).read_text("utf-8"), page
