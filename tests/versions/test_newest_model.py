"""The newest weights are tried as they were trained: on their base, and by the rendering of their rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ft_dagster.settings import load_settings
from ft_dagster.stages.chain import run_chain, up_to
from ft_dagster.versions.newest_model import newest_model
from ft_dagster.workspace.workspace import RunOf, Workspace
from tests.e2e.project import edit, write_lines
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.slow


def test_weights_are_tried_as_they_were_trained_though_data_and_base_are_others_by_now(
    chained: Workspace, tmp_path: Path
) -> None:
    project = shutil.copytree(chained.project, tmp_path / "project")
    base = make_tiny_model(tmp_path / "base", layers=3)
    rows = [{"prompt": f"Where is the {n}? ", "completion": f"The {n} is here."} for n in range(100)]
    write_lines(project / "data" / "rows.jsonl", rows)
    edit(project / "ft_dagster.yaml", lambda content: content["sources"]["bases"].append(str(base)))
    edit(project / "tenants/acme/places.yaml", lambda content: content.update(base_model=str(base)))
    edit(project / "tenants/acme/places.yaml", lambda content: content["data"].update(render="plain"))
    workspace = Workspace(load_settings(project), chained.key, RunOf("test", "test", lambda line: None))
    before = newest_model(workspace.settings, workspace.key)
    outcome = run_chain(workspace, up_to("task_dataset"))
    assert outcome.error is None, outcome.error
    assert newest_model(workspace.settings, workspace.key) == before
    assert before.chat
