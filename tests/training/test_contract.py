"""run.json and result.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.training.contract import TrainingRun, read_run, recipe_digest
from tests.training.runs import Runs


def edited(runs: Runs, change: Callable[[dict[str, Any]], None]) -> Path:
    folder = runs.prepare()
    content = json.loads((folder / "run.json").read_text())
    change(content)
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def recipe(run: TrainingRun) -> str:
    return recipe_digest(run, run.members[0])


@pytest.mark.parametrize("part", [(), ("members", 0, "plan")])
def test_a_newer_schema_is_refused(runs: Runs, part: tuple[Any, ...]) -> None:
    def change(content: Any) -> None:
        for name in part:
            content = content[name]
        content["schema_version"] = 2

    with pytest.raises(UserError, match="newer ft-dagster"):
        read_run(edited(runs, change))


def test_a_setting_that_would_not_act_is_refused_by_name(runs: Runs) -> None:
    folder = runs.prepare(training={"neftune_alpha": 5})
    with pytest.raises(UserError, match="neftune_alpha"):
        read_run(folder)


def test_an_absent_run_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_run(tmp_path)


def test_where_files_lie_is_no_part_of_the_recipe(runs: Runs) -> None:
    assert recipe(read_run(runs.prepare("a"))) == recipe(read_run(runs.prepare("b")))


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"learning_rate": 1e-4}},
        {"method": {"rank": 8}},
        {"seed": 1},
        {"mixture_digest": "n" * 64},
    ],
)
def test_what_is_taught_and_how_is_the_recipe(runs: Runs, change: dict[str, Any]) -> None:
    assert recipe(read_run(runs.prepare("a"))) != recipe(read_run(runs.prepare("b", **change)))
