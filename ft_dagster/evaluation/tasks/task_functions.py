"""Imports the Python that a task YAML names with `!function`: only what the platform allows.

A function counts as its module's file and all local files that this imports (data/sources/python_files.py),
so that a change of any is another task.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

from ft_dagster.data.sources.python_files import module_of
from ft_dagster.errors import UserError
from ft_dagster.roots import Roots

_NAMED = (FunctionType, BuiltinFunctionType, type)  # they say in which module they were written


class Function(str):
    """Is the value of a `!function` tag: `module.name`, counted from `folder`, where its YAML lies."""

    folder: Path = Path()
    file: Path = Path()

    @property
    def module(self) -> str:
        return self.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.rpartition(".")[2]

    @property
    def beside(self) -> Path:
        """Return where its module lies if it comes with the YAML, as lm-eval counts."""
        return Path(os.path.realpath(self.folder / f"{self.module.replace('.', '/')}.py"))


def functions_in(tree: Any) -> Iterator[Function]:
    """Yield every function that a task's content names."""
    if isinstance(tree, Function):
        yield tree
    elif isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from functions_in(value)


def imported(tree: Any, roots: Roots | None) -> Any:
    """Return a task's content with the functions in place of their names. Raises UserError for one not
    allowed.
    """
    if isinstance(tree, Function):
        return _import(tree, source_of(tree, roots), roots)
    if isinstance(tree, dict):
        return {name: imported(value, roots) for name, value in tree.items()}
    return [imported(value, roots) for value in tree] if isinstance(tree, list) else tree


def source_of(function: Function, roots: Roots | None) -> Path:
    """Return the file that holds a function: beside the YAML, else of an installed module. Imports nothing of
    it.

    Raises UserError unless `roots` allow it; without roots all are.
    """
    allowed = None if roots is None else roots.functions
    beside, module = function.beside, function.module
    if beside.is_file() and (allowed is None or str(beside) in allowed):
        return beside
    known = allowed is None or any(f"{module}.".startswith(f"{name}.") for name in allowed)
    if not known or beside.is_file():
        raise _not_allowed(function)
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        fix = "Put the module beside the YAML, or install it"
        raise UserError("no such module", file=function.file, value=f"!function {function}", fix=fix)
    return Path(os.path.realpath(found.origin))


def _not_allowed(function: Function) -> UserError:
    return UserError(
        "runs Python that the platform does not allow",
        file=function.file,
        value=f"!function {function}",
        fix="Write it without functions, or let the platform name its file or module in "
        "evaluation.functions of ft_dagster.yaml",
    )


def _import(function: Function, file: Path, roots: Roots | None) -> Callable[..., Any]:
    """Import the function, its module once; what lies beside a plain file can be imported by it.

    Raises UserError for one that the module has from elsewhere, as after `from subprocess import run`.
    """
    try:
        own = file == function.beside
        module = module_of(file) if own else importlib.import_module(function.module)
        found: Callable[..., Any] = getattr(module, function.name)
    except AttributeError:
        fix = "Mend the name, or write the function"
        raise UserError("no such function", file=file, value=function.name, fix=fix) from None
    allowed = () if roots is None else (module.__name__, *roots.functions)
    home = found.__module__ if isinstance(found, _NAMED) else module.__name__
    if roots is not None and not any(f"{home}.".startswith(f"{name}.") for name in allowed):
        raise _not_allowed(function)
    return found
