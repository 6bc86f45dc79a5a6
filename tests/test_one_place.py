"""What every program must agree on is defined once."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from ft_dagster import exit_codes
from ft_dagster.errors import UserError
from ft_dagster.schema_version import is_readable, refuse_newer
from ft_dagster.stage_entries import ENTRIES

PACKAGE = Path(__file__).resolve().parents[1] / "ft_dagster"
CODES = {name for name in vars(exit_codes) if name.isupper()}
FIELDS = {"base_model", "evaluation"}  # stages whose names a declaration has too
OTHER_MEANINGS = {  # where a word that is a stage's name means something else
    "assets/release.py": "a group of assets",
    "audit/index/artifact_records.py": "the state of a row that was probed",
    "automation/experiments/experiments.py": "the content of a declaration",
    "cli/commands.py": "a command",
    "cli/planning.py": "who said a value",
    "cli/imports.py": "a JSON field",
    "lineage/entry.py": "an action",
    "versions/imports/openai_job.py": "a field of another service's jobs",
    "planning/reasons.py": "who said a value",
    "spec/validation.py": "a declared field",
}


@cache
def trees() -> dict[str, ast.Module]:
    """Of the package's files, by their paths."""
    files = PACKAGE.rglob("*.py")
    return {file.relative_to(PACKAGE).as_posix(): ast.parse(file.read_text("utf-8")) for file in files}


def _assigned(tree: ast.Module) -> set[str]:
    """Names that a module gives a value, not those it imports."""
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


@pytest.mark.slow
def test_exit_codes_are_given_a_value_in_one_module() -> None:
    found = {file for file, tree in trees().items() if _assigned(tree) & CODES}
    assert found == {"exit_codes.py"}


@pytest.mark.slow
def test_the_name_of_a_stage_is_written_in_its_entry_alone() -> None:
    names = ENTRIES.keys() - FIELDS
    found = {
        file
        for file, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    }
    assert found == {"stage_entries/__init__.py", *OTHER_MEANINGS}


@pytest.mark.slow
def test_no_program_ends_with_a_bare_number() -> None:
    bare = {
        file: ast.unparse(node)
        for file, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"sys.exit", "os._exit", "SystemExit"}
        and not file.startswith("launch/warm/")  # a server's own forks, whose codes nobody reads
        and any(isinstance(given, ast.Constant) and isinstance(given.value, int) for given in node.args)
    }
    assert bare == {}


@pytest.mark.slow
def test_the_refusal_of_a_newer_file_is_worded_in_one_module() -> None:
    found = {
        file
        for file, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and "by a newer ft" in str(node.value)
    }
    assert found == {"schema_version.py"}


@pytest.mark.parametrize("found", [3, "3", None, 2.5])
def test_a_newer_version_is_refused_by_file_and_value(found: object) -> None:
    with pytest.raises(
        UserError, match=r"^x\.json: schema_version: written by a newer ft-dagster"
    ) as refused:
        refuse_newer(found, 2, file="x.json")
    assert refused.value.value == found


def test_versions_up_to_the_newest_are_read() -> None:
    refuse_newer(1, 2)
    refuse_newer(2, 2)
    assert is_readable(1, 2)
    assert not is_readable(3, 2)


@pytest.mark.slow
def test_few_places_hold_what_no_type_says() -> None:
    found = sum(ast.unparse(tree).count("dict[str, Any]") for tree in trees().values())
    assert found <= 250, "say `object`, or name a type"
