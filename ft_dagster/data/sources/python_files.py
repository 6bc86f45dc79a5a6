"""Reads Python of the platform's that a declaration or a task names: the files that it is made of, and its
module.

Imports that are computed while it runs are not seen.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import sha256_file, sha256_json

MADE_OF = "__ft_dagster_made_of__"  # of a module: the digest of its files as it was executed


def sources_of(file: Path) -> dict[str, Path]:
    """Return a module's file and every local file that it imports, and those import, by their path from its
    root.

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
    """Return (where its absolute imports are looked for, what counts as local): in a folder of Python's own
    path, which holds other people's packages too, its own package or file alone.
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
    """Yield the module of a dotted name, and the packages above it, as far as there are files of them."""
    for length in range(len(parts) + 1):
        here = start.joinpath(*parts[:length])
        plain = [here.with_name(f"{here.name}.py")] if length else []
        for file in (here / "__init__.py", *plain):
            if file.is_file():
                yield Path(os.path.realpath(file))


def module_of(file: Path) -> Any:
    """Import the module of a file as it is now; what lies beside a plain file can be imported at its top, and
    is its own: another file may have a module of the same name beside it.
    """
    name, made_of = str(file.with_suffix("")), _digest(file)  # named as lm-eval does
    known = sys.modules.get(name)
    if known is not None and getattr(known, MADE_OF, made_of) == made_of:
        return known
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    setattr(module, MADE_OF, made_of)
    sys.modules[name] = module
    try:
        with _beside(file):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _digest(file: Path) -> str:
    return sha256_json({name: sha256_file(source) for name, source in sources_of(file).items()})


@contextmanager
def _beside(file: Path) -> Iterator[None]:
    """Lets what lies beside a file be imported, from its source; nobody else finds what was."""
    root, reach = _root(file)
    before, writes = {*sys.modules}, sys.dont_write_bytecode
    importlib.invalidate_caches()
    sys.path.append(str(root))
    sys.dont_write_bytecode = True  # compiled files are told apart by the second and the size alone
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(str(root))
        if root == reach:  # else it is a package of Python's own path
            for name in {*sys.modules} - before:
                if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(root):
                    del sys.modules[name]
