"""Holds the first line of each docstring to a sentence: it begins with the verb, or with who does it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "ft_dagster"
NOT_YET = ("launch",)  # most of it is about to be replaced
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
