"""Applies a tenant's own transformation of rows: a Python function that the platform allows, from one row to
one row.

It counts as its file and all local files that this imports: a change of any makes the data set again.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ft_dagster.data.sources.locations import DeclaredAt
from ft_dagster.data.sources.python_files import module_of, sources_of
from ft_dagster.data.sources.readers import RawRow
from ft_dagster.errors import UserError
from ft_dagster.provenance.digest import sha256_file, sha256_json

UNDER = "transform"  # the field of a source
TRIED_TWICE = 100  # rows of a source of which it is asked again: it must be a function of the row alone


def transformation_digest(named: str, project: Path, asked: DeclaredAt) -> str:
    """Return the sha256 over the files of a function, `hooks/rows.py:shorten`, by their names below its root,
    and its name. Nothing is imported. Raises UserError for one that is not allowed, or not there.
    """
    sources = sources_of(_file_of(named, project, asked))
    return sha256_json([named.partition(":")[2], {name: sha256_file(file) for name, file in sources.items()}])


def transformed(rows: Iterator[RawRow], named: str, project: Path, asked: DeclaredAt) -> Iterator[RawRow]:
    """Yield each row with the fields that the function returns. Raises UserError with the file and line of a
    row of which it raises, returns no mapping, or returns another one when it is asked again.
    """
    function = _function(named, project, asked)
    for number, row in enumerate(rows):
        fields = _asked(function, named, row)
        if number < TRIED_TWICE and repr(_asked(function, named, row)) != repr(fields):
            raise row.error(
                "the transformation returns another row when it is asked again",
                "Let it depend on the row alone: no chance, no clock, no count",
                field=f"{asked.field}.{UNDER}",
                value=named,
            )
        yield row._replace(fields=fields)


def _asked(function: Callable[[dict[str, object]], Any], named: str, row: RawRow) -> dict[str, object]:
    try:
        made = function(copy.deepcopy(row.fields))
    except (Exception, SystemExit) as error:  # whatever a tenant's code raises
        problem = f"the transformation raised {type(error).__name__}{_place_of(error)}"
        raise row.error(problem, "Mend it, or the row", value=named) from None  # it may quote the row
    if not isinstance(made, Mapping) or not all(isinstance(name, str) for name in made):
        problem = f"the transformation returned no mapping of columns: {type(made).__name__}"
        raise row.error(problem, "Let it return the row's columns", value=named)
    return dict(made)


def _file_of(named: str, project: Path, asked: DeclaredAt) -> Path:
    """Return the file of a function. Raises UserError unless the platform names exactly this one."""
    place, _, name = named.partition(":")
    if asked.roots is not None and named not in asked.roots.transforms:
        fix = "Let the platform name it in sources.functions of ft_dagster.yaml"
        raise asked.error("runs Python that the platform does not allow", named, fix, UNDER)
    if place.endswith(".py"):
        file = Path(os.path.realpath(project / place))
    else:
        try:
            spec = importlib.util.find_spec(place)
        except (ImportError, ValueError):
            spec = None
        origin = None if spec is None else spec.origin
        file = Path(os.path.realpath(origin)) if origin and origin.endswith(".py") else Path()
    if not name.isidentifier() or not file.is_file():
        fix = "Write file.py:function, from the project, or installed.module:function"
        raise asked.error("no such function", named, fix, UNDER)
    return file


def _function(named: str, project: Path, asked: DeclaredAt) -> Callable[[dict[str, object]], Any]:
    file = _file_of(named, project, asked)
    place, _, name = named.partition(":")
    try:
        module = module_of(file) if place.endswith(".py") else importlib.import_module(place)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever its module does when it is imported
        raise asked.error(f"cannot be imported: {_said(error)}", named, f"Mend {file}", UNDER) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise asked.error("no such function", named, f"Write it in {file}", UNDER)
    return function


def _place_of(error: BaseException) -> str:
    """Say where in the function itself, which is called from here, the error was raised."""
    called = traceback.extract_tb(error.__traceback__)[1:2]
    return "".join(f" in {Path(frame.filename).name}, line {frame.lineno}" for frame in called)


def _said(error: BaseException) -> str:
    """Say the error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
