"""What can be held of the package's signatures without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ft_dagster"
MOST_ARGUMENTS = 8
FILES = sorted(PACKAGE.rglob("*.py"))


def _public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions of a module, and methods of its public classes."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _public(node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
            not node.name.startswith("_") or node.name == "__init__"
        ):
            yield node


def _is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Typer reads a command's options from its signature."""
    return any(ast.unparse(decorator).startswith("app.command(") for decorator in node.decorator_list)


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    given = node.args
    named = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in named if name not in {"self", "cls"}]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_no_public_function_has_more_than_eight_arguments(file: Path) -> None:
    found = {
        node.name: _arguments(node)
        for node in _public(ast.parse(file.read_text("utf-8")).body)
        if not _is_command(node)
    }
    assert {name: names for name, names in found.items() if len(names) > MOST_ARGUMENTS} == {}
