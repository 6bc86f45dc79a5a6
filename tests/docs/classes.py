"""Lists every public class of the package for docs/reference/classes.md, from the source, by room."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[2] / "ft_dagster"
SENTENCE = re.compile(r"(.*?\.)(?=\s+[A-Z`\d(]|$)")  # up to the first full stop before another sentence


class PublicClass(NamedTuple):
    """Names a class, its file below the package, and the first sentence of its docstring."""

    name: str
    file: str
    summary: str


def public_classes() -> Iterator[PublicClass]:
    """Yield the classes at the top of each module whose names do not begin with an underscore."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield PublicClass(node.name, str(file.relative_to(PACKAGE)), summary(node))


def summary(node: ast.ClassDef) -> str:
    """Return the first sentence of a docstring on one line, empty where there is none."""
    paragraph = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
    sentence = SENTENCE.match(paragraph)
    return sentence.group(1) if sentence else paragraph


def room(file: str) -> str:
    """Return the folder of a file, or `ft_dagster` for the files beside the rooms."""
    return file.rpartition("/")[0] or "ft_dagster"
