"""A variant with three versions and the commands over it: where tests of what may be served begin."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.lineage.release import history
from ft_dagster.lineage.served import aliases
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages.chain import CHAIN, run_chain
from ft_dagster.stages.release import Released, release
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import edit, write_project
from tests.security.attacked import GATES
from tests.security.pretend import KEY, Pretend, desk

CHILD = VariantKey("acme", "colours")
RIGHT = {"base": 0.0, **dict.fromkeys(("first", "second", "third", "child", "other"), 1.0)}


def file_of(project: Path, key: VariantKey = KEY) -> Path:
    return project / f"tenants/{key.tenant}/{key.variant}.yaml"


def trained(project: Path, name: str, key: VariantKey = KEY, **changes: Any) -> Workspace:
    """The desk of a variant whose newest weights have this name, judged and exported."""

    def change(content: dict[str, Any]) -> None:
        content["training"]["seed"] = list(RIGHT).index(name)
        for part, fields in changes.items():
            content.setdefault(part, {}).update(fields)

    edit(file_of(project, key), change)
    workspace = desk(project, Pretend(name, RIGHT), key)
    outcome = run_chain(workspace, CHAIN)
    assert outcome.error is None, outcome.error
    return workspace


def released(project: Path, name: str, key: VariantKey = KEY, **changes: Any) -> Released:
    return release(trained(project, name, key, **changes))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """Version 1 was judged by laxer gates; 2 is in production; 3 waits for ann."""
    project = write_project(tmp_path_factory.mktemp("served") / "project", tiny_model_folder)

    def adjust(content: dict[str, Any]) -> None:
        content["gates"] = GATES
        content["evaluation"].update(limit=200)
        content["data"]["decontaminate"] = {"enabled": False}

    edit(file_of(project), adjust)
    released(project, "first")
    released(project, "second", gates={"general_margin": 0.05})
    released(project, "third", release={"approvers": ["ann"]})
    return project


@pytest.fixture
def project(story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(story, tmp_path / "project")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FT_DAGSTER_PROJECT", str(folder))  # which opening the instance sets
    return folder


def served(project: Path, key: VariantKey = KEY) -> dict[str, int | None]:
    return aliases(history(load_settings(project).open_store(), key.prefix))


def typed(project: Path, *words: str) -> Any:
    done = CliRunner().invoke(app, ["--project", str(project), *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def out(folder: Path) -> tuple[str, str]:
    return "--folder", str(folder / "out")


PROMOTE = ("release", str(KEY), "--by", "ann")
ROLLBACK = ("rollback", str(KEY), "--reason", "worse")
PUBLISH = ("publish", str(KEY), "--version", "1", "--folder")


def child_of(project: Path, **more: Any) -> None:
    """Declare a variant that starts from the parent's release."""
    shutil.copyfile(file_of(project), file_of(project, CHILD))

    def start(content: dict[str, Any]) -> None:
        content["base_model"] = {"variant": str(KEY), "parent_adapter": "stack"}
        content.pop("release", None)
        content.update(more)

    edit(file_of(project, CHILD), start)
