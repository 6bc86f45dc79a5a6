"""An objective is one file of one shape, and nothing else in the package asks for one by name."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

import ft_dagster
from ft_dagster.errors import UserError
from ft_dagster.objectives import OBJECTIVES, objective_of
from ft_dagster.objectives.objective import Objective
from ft_dagster.spec import VariantSpec

PACKAGE = Path(ft_dagster.__file__).parent
FOLDER = PACKAGE / "objectives"
SHARED = {"__init__", "objective", "rendered", "loss"}
PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"
DECLARED = {"description": "x", "owners": ["me"], "base_model": "m", "data": {"sources": ["rows.jsonl"]}}


def test_each_file_is_one_objective_by_its_name() -> None:
    files = {file.stem for file in FOLDER.glob("*.py")} - SHARED
    assert files == set(OBJECTIVES)
    for name, objective in OBJECTIVES.items():
        module = __import__(f"ft_dagster.objectives.{name}", fromlist=[name])
        found = [value for value in vars(module).values() if isinstance(value, Objective)]
        assert found == [objective]
        assert objective.name == name


@pytest.mark.slow
def test_no_other_file_compares_an_objectives_name() -> None:
    """But for files that read the columns of other programs' rows, of which one is `instruction`."""
    named = []
    columns = {PACKAGE / f"versions/imports/{name}.py" for name in ("axolotl", "llamafactory")}
    for file in {*PACKAGE.rglob("*.py")} - columns:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Compare | ast.Match):
                values = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
                if OBJECTIVES.keys() & {value for value in values if isinstance(value, str)}:
                    named.append(f"{file.relative_to(PACKAGE)}:{node.lineno}")
    assert named == []


def test_the_page_has_a_row_for_each() -> None:
    rows = [
        line.split("|")[1].strip(" `") for line in PAGE.read_text("utf-8").splitlines() if line[:3] == "| `"
    ]
    assert rows[: len(OBJECTIVES)] == list(OBJECTIVES)


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UserError) as caught:
        objective_of("poetry")
    assert (caught.value.field, caught.value.value) == ("objective", "poetry")
    assert caught.value.fix == "Take instruction, domain_knowledge or task_specific"
    with pytest.raises(ValueError, match="'instruction', 'domain_knowledge' or 'task_specific'"):
        VariantSpec.model_validate({**DECLARED, "objective": "poetry"})


@pytest.mark.parametrize("given", [["instruction"], {"instruction": 1}, 3, True, None])
def test_what_is_no_name_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="Input should be 'instruction'"):
        VariantSpec.model_validate({**DECLARED, "objective": given})


def test_a_declaration_and_its_schema_know_what_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, "poetry", replace(OBJECTIVES["instruction"], name="poetry"))
    assert VariantSpec.model_validate({**DECLARED, "objective": "poetry"}).objective == "poetry"
    assert VariantSpec.model_json_schema()["properties"]["objective"]["enum"] == list(OBJECTIVES)
