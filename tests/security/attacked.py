"""A variant whose chain was pretended, to be declared otherwise, trained again and released."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.report.sentences.next_step import SERVED
from ft_dagster.stages import release as release_step
from ft_dagster.stages.chain import CHAIN, run_chain
from ft_dagster.store import Artifact
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import edit, write_project
from tests.security.pretend import KEY, Pretend, desk

GATES = {
    "general_margin": 0.1,
    "general_loss_margin": 0.3,
    "alpha": 0.05,
    "regression_margin": 0.1,
    "regression_loss_margin": 1.0,
    "loss_tail": 0.5,
}
FILE = f"tenants/{KEY.tenant}/{KEY.variant}.yaml"
RELEASED = SERVED  # nothing is left to be done


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A project whose variant went through the chain, not released yet."""
    folder = write_project(tmp_path_factory.mktemp("attacked") / "project", tiny_model_folder)

    def adjust(content: dict[str, Any]) -> None:
        content["gates"] = GATES
        content["evaluation"].update(limit=200)
        content["data"]["decontaminate"] = {"enabled": False}

    edit(folder / FILE, adjust)
    outcome = run_chain(desk(folder, Pretend()), CHAIN)
    assert outcome.error is None, outcome.error
    return folder


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "project")


def declare(project: Path, **changes: Any) -> None:
    """Change fields of parts of the declaration: `evaluation={"limit": 3}`."""

    def change(content: dict[str, Any]) -> None:
        for part, fields in changes.items():
            content.setdefault(part, {}).update(fields)

    edit(project / FILE, change)


def make(project: Path, *stages: Stage[Any], pretend: Pretend | None = None) -> Workspace:
    workspace = desk(project, pretend or Pretend())
    for stage in stages:
        workspace.make(stage)
    return workspace


def train_again(
    project: Path, name: str, right: dict[str, float], *, judged: bool = True, **changes: Any
) -> Pretend:
    """Run the chain with another seed, which leaves the weights `name`; `judged`: also for their release."""
    declare(project, training={"seed": len(name)}, **changes)
    pretend = Pretend(name, {"base": 0.0, "first": 1.0, **right})
    if judged:
        outcome = run_chain(desk(project, pretend))
        assert outcome.error is None, outcome.error
    else:
        make(project, *CHAIN, pretend=pretend)
    return pretend


def while_hashed(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen while the next release hashes its base, which takes minutes of a large one."""
    hashes = release_step.check_base

    def slow(workspace: Workspace, export: Artifact) -> None:
        monkeypatch.setattr(release_step, "check_base", hashes)
        happens()
        hashes(workspace, export)

    monkeypatch.setattr(release_step, "check_base", slow)
