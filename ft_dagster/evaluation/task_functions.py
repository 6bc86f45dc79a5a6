"""The Python that a task YAML names with `!function`: only what the platform allows is ever imported.

A function counts as its module's file and all local files that this imports, so that a change of any is
another task. Imports that are computed while it runs are not seen.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.roots import Roots

_NAMED = (FunctionType, BuiltinFunctionType, type)  # they say in which module they were written


class Function(str):
    """The value of a `!function` tag: `module.name`, counted from `folder`, where its YAML lies."""

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
        """Where its module lies if it comes with the YAML, as lm-eval counts."""
        return Path(os.path.realpath(self.folder / f"{self.module.replace('.', '/')}.py"))


def functions_in(tree: Any) -> Iterator[Function]:
    """Every function that a task's content names."""
    if isinstance(tree, Function):
        yield tree
    elif isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from functions_in(value)


def imported(tree: Any, roots: Roots | None) -> Any:
    """A task's content with the functions in place of their names. Raises UserError for one not allowed."""
    if isinstance(tree, Function):
        return _import(tree, source_of(tree, roots), roots)
    if isinstance(tree, dict):
        return {name: imported(value, roots) for name, value in tree.items()}
    return [imported(value, roots) for value in tree] if isinstance(tree, list) else tree


def source_of(function: Function, roots: Roots | None) -> Path:
    """The file that holds a function: beside the YAML, else of an installed module. Imports nothing of it.

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


def sources_of(file: Path) -> dict[str, Path]:
    """A module's file and every local file that it imports, and those import, by their path from its root.

    Local is what lies below the folder of the outermost package, for a plain module below its own folder.
    """
    root, reach = _root(file)
    found, waiting = dict[str, Path](), [file]
    while waiting:
        here = waiting.pop()
        name = os.path.relpath(here, root)
        if name not in found:
            found[name] = here
            waiting += [each for each in _imports(here, root) if each.is_relative_to(reach)]
    return found


def _root(file: Path) -> tuple[Path, Path]:
    """(where its absolute imports are looked for, what counts as local): in a folder of Python's own path,
    which holds other people's packages too, its own package or file alone.
    """
    top = file
    folder = file.parent
    while (folder / "__init__.py").is_file():
        top, folder = folder, folder.parent
    shared = any(os.path.realpath(entry) == str(folder) for entry in sys.path if entry)
    return folder, top if shared else folder


def _imports(file: Path, root: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        fix = "Mend it, or leave the function out"
        raise UserError(f"not Python: {error}", file=file, fix=fix) from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(root, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            start = root if not node.level else file.parents[node.level - 1]
            parts = node.module.split(".") if node.module else []
            for alias in node.names:
                yield from _files(start, [*parts, alias.name])


def _files(start: Path, parts: list[str]) -> Iterator[Path]:
    """The module of a dotted name, and the packages above it, as far as there are files of them."""
    for length in range(len(parts) + 1):
        here = start.joinpath(*parts[:length])
        plain = [here.with_name(f"{here.name}.py")] if length else []
        for file in (here / "__init__.py", *plain):
            if file.is_file():
                yield Path(os.path.realpath(file))


def _not_allowed(function: Function) -> UserError:
    return UserError(
        "runs Python that the platform does not allow",
        file=function.file,
        value=f"!function {function}",
        fix="Write it without functions, or let the platform name its file or module in "
        "evaluation.functions of ft_dagster.yaml",
    )


def _import(function: Function, file: Path, roots: Roots | None) -> Callable[..., Any]:
    """The function, its module imported once; what lies beside a plain file can be imported by it.

    Raises UserError for one that the module has from elsewhere, as after `from subprocess import run`.
    """
    try:
        own = file == function.beside
        module = _from_file(file) if own else importlib.import_module(function.module)
        found: Callable[..., Any] = getattr(module, function.name)
    except AttributeError:
        fix = "Mend the name, or write the function"
        raise UserError("no such function", file=file, value=function.name, fix=fix) from None
    allowed = () if roots is None else (module.__name__, *roots.functions)
    home = found.__module__ if isinstance(found, _NAMED) else module.__name__
    if roots is not None and not any(f"{home}.".startswith(f"{name}.") for name in allowed):
        raise _not_allowed(function)
    return found


def _from_file(file: Path) -> Any:
    name = str(file.with_suffix(""))  # as lm-eval names it
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(_root(file)[0])
    sys.modules[name] = module
    sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(folder)
    return module
