"""All but what adapts to Dagster is kept from it, and no modules import each other in a circle."""

from __future__ import annotations

import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ft_dagster"
CONTRACTS: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"][
    "importlinter"
]["contracts"]
KNOWS_DAGSTER = {
    "assets",
    "automation",
    "build",
    "cli",
    "component",
    "dagster_private",
    "definitions",
    "resources",
}
TYPES_ONLY = {  # what a stage is called with
    "ft_dagster.workspace.stage": {"input_view", "workspace"},
    "ft_dagster.workspace.input_view": {"workspace"},
    "ft_dagster.workspace.programs": {"workspace"},
    "ft_dagster.workspace.kept_training": {"workspace"},
    "ft_dagster.workspace.build_context": {"workspace"},
}


def children(folder: Path) -> set[str]:
    """Modules and rooms of a package's folder."""
    modules = {file.stem for file in folder.glob("*.py")} - {"__init__", "__main__"}
    return modules | {file.parent.name for file in folder.glob("*/*.py")}


def test_every_room_but_those_that_adapt_to_dagster_is_kept_from_it() -> None:
    (contract,) = [contract for contract in CONTRACTS if contract["type"] == "forbidden"]
    kept = {name.removeprefix("ft_dagster.") for name in contract["source_modules"]}
    assert children(PACKAGE) - KNOWS_DAGSTER == kept
    pipes, *public = contract["ignore_imports"]
    assert pipes == "ft_dagster.training.progress -> dagster_pipes"
    assert public == [f"ft_dagster -> ft_dagster.{name}" for name in ("build", "component")]
    assert {"dagster", "dagster_pipes"} <= set(contract["forbidden_modules"])


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not for their types either, but for those of a stage's own workspace."""
    graph = grimp.build_graph("ft_dagster", exclude_type_checking_imports=False, cache_dir=None)
    imports = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    for module, others in TYPES_ONLY.items():
        imports[module] -= {f"ft_dagster.workspace.{other}" for other in others}
    imports["ft_dagster"] = set()  # names its public face for the type checker alone
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
