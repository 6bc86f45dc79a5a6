"""`plan` says what the base reaches by examples in its prompt, and asks only where `--ask-base` is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ft_dagster.cli import app
from ft_dagster.gate.prompted import Prompted
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages import prompted_base
from ft_dagster.store import read_head
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import edit, write_lines, write_project

pytestmark = pytest.mark.slow
KEY = VariantKey("acme", "places")


@pytest.fixture
def project(tmp_path: Path, tiny_model_folder: Path) -> Path:
    return write_project(tmp_path / "project", tiny_model_folder)


def plan(folder: Path, *more: str) -> Result:
    done = CliRunner().invoke(app, ["--project", str(folder), "plan", str(KEY), *more])
    assert done.exit_code == 0, done.output
    return done


def planned(folder: Path, *more: str) -> dict[str, Any]:
    done = plan(folder, *more, "--json")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_plan_asks_by_itself_never_and_with_ask_base_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    whole = Workspace.run_program

    def counted(workspace: Workspace, program: str, *more: Any, **named: Any) -> Any:
        if named["leased"]:
            asked.append(program)
        return whole(workspace, program, *more, **named)

    monkeypatch.setattr(Workspace, "run_program", counted)
    assert planned(project)["with_examples"] == []
    assert asked == []
    first = planned(project, "--ask-base")["with_examples"]
    assert asked == ["evaluation"]
    assert first[0].startswith("the base alone (token_f1, ")
    assert "with 8 examples in the prompt" in first[0]
    assert planned(project, "--ask-base")["with_examples"] == first
    assert planned(project)["with_examples"] == first
    assert "without a training: the base alone" in " ".join(plan(project).output.split())
    assert asked == ["evaluation"]
    store = load_settings(project).open_store()
    assert read_head(store, KEY.prefix, "task_dataset") is None  # no run's head was moved


@pytest.mark.long
def test_of_other_rows_than_were_asked_a_plan_says_nothing(project: Path) -> None:
    planned(project, "--ask-base")
    rows = [{"instruction": f"What is {n} and {n}?", "input": "", "output": f"{2 * n}"} for n in range(90)]
    write_lines(project / "data" / "rows.jsonl", rows)
    assert planned(project)["with_examples"] == []


def test_rows_without_questions_are_refused_in_one_line(project: Path) -> None:
    texts = [{"text": f"The house number {n} stands by the sea and has {n} rooms."} for n in range(80)]
    write_lines(project / "data" / "rows.jsonl", texts)
    done = CliRunner().invoke(app, ["--project", str(project), "plan", str(KEY), "--ask-base"])
    assert done.exit_code != 0
    assert "the rows are raw text, without questions" in str(done.exception) + done.output


def test_a_goal_that_examples_reach_is_said_by_the_plan(project: Path) -> None:
    edit(
        project / "tenants" / "acme" / "places.yaml",
        lambda content: content["evaluation"].update(goal=1e-9, kind="text"),
    )
    said = " ".join(planned(project, "--ask-base")["with_examples"])
    workspace = Workspace(load_settings(project), KEY)
    [made] = workspace.store.names(f"{KEY.prefix}/{prompted_base.STAGE.name}")
    found = Prompted.from_json(
        json.loads(workspace.store.read(f"{KEY.prefix}/prompted_base/{made}/manifest.json"))["predicate"][
            "figures"
        ]
    )
    reached = any(one.value >= 1e-9 for one in found.judged)
    assert ("a training may not be needed" in said) is reached
