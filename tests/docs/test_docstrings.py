"""Holds the first line of each docstring to a sentence that begins with the verb, or with who does it, and
each module that one names to the package.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from ft_dagster.settings import Settings
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.policy import Policy

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).resolve().parents[2] / "ft_dagster"
NOT_YET = ("launch",)  # most of it is about to be replaced
REFERENCE = re.compile(r"`([a-z_]+(?:\.(?!(?:jsonl|lock)\b)\w+)+)`")  # but names of files
SHARED_PROCESSES = ("forked_", "kept_base")  # files that stay as they are until they are replaced
NO_SUBJECT = re.compile(  # a noun without a verb, or a sentence whose subject is hidden
    r"(a|an|all|another|any|as|at|both|by|each|every|for|from|how|in|its|no|none|of|on|one|several|so|some|that"
    r"|the|their|these|those|to|two|what|whatever|when|where|whether|which|who|whoever|whose|whom|why|with|within"
    r"|without|mean|sha256|also|among|before|called|exact|many|newest|not|over|passed|since|whole)\b"
    r"|(?-i:[^A-Z])|\w+ ->",
    re.IGNORECASE,
)


def docstrings(file: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, docstring) of the module and of what it defines."""
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            said = ast.get_docstring(node)
            if said is not None:
                yield getattr(node, "name", "the module"), said


def is_sentence(docstring: str) -> bool:
    """Say whether a docstring begins with what may be its verb or subject, and has an end."""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return NO_SUBJECT.match(paragraph) is None and paragraph.endswith((".", ":", "?", "!", '"', ")", "`"))


def test_each_first_line_is_a_sentence() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)} {name}: {said.splitlines()[0]}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if file.relative_to(PACKAGE).parts[0] not in NOT_YET and not file.name.startswith(SHARED_PROCESSES)
        for name, said in docstrings(file)
        if not is_sentence(said)
    ]
    assert wrong == []


def test_a_noun_alone_and_a_hidden_subject_are_no_sentence() -> None:
    for said in (
        "The digest of a payload.",
        "What is due now.",
        "Of equal bytes the named one.",
        "sha256 of it.",
        "declaration.json, as it was frozen.",
        "Key -> stamp of every variant.",
    ):
        assert not is_sentence(said)
    assert is_sentence("Return the digest of a payload.")


def is_there(path: list[str]) -> bool:
    """Say whether a dotted path leads to a room, to a module or to what a module names; below the package, or
    from the end of a module's own path on.
    """
    for depth in range(len(path), 0, -1):
        below = "/".join(path[:depth])
        rest = path[depth:]
        if not rest and any(found.is_dir() for found in PACKAGE.rglob(below)):
            return True
        files = [*PACKAGE.rglob(f"{below}.py"), *PACKAGE.rglob(f"{below}/__init__.py")]
        if any(not rest or re.search(rf"\b{rest[0]}\b", file.read_text("utf-8")) for file in files):
            return True
    return False


def is_field(path: list[str], models: tuple[type[BaseModel], ...] = (VariantSpec, Policy, Settings)) -> bool:
    """Say whether a dotted path begins with a field that a person writes into a YAML file."""
    return any(
        path[0] in model.model_fields and path[1] in str(model.model_json_schema()) for model in models
    )


def test_each_module_that_a_docstring_names_is_there() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    rooms = {folder.name for folder in PACKAGE.rglob("*") if folder.is_dir()}
    defined = {name for file in files for name in re.findall(r"^(?:def|class) (\w+)", file.read_text(), re.M)}
    gone = [
        f"{file.relative_to(PACKAGE)} {name}: {found}"
        for file in files
        for name, said in docstrings(file)
        for found in REFERENCE.findall(said)
        if (path := found.split("."))[0] in rooms or path[-1] in defined
        if path[0] not in sys.stdlib_module_names and not is_there(path) and not is_field(path)
    ]
    assert gone == []
