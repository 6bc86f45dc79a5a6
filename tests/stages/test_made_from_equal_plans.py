"""A plan that came out as the same bytes stands for a version's own, and brings no other rows with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ft_dagster.settings import load_settings
from ft_dagster.stages.chain import run_chain, up_to
from ft_dagster.versions.version_artifacts import version_artifacts
from ft_dagster.workspace.workspace import RunOf, Workspace

pytestmark = pytest.mark.slow


def test_a_version_is_made_from_the_rows_that_it_learned_though_others_gave_the_same_plan(
    chained: Workspace, tmp_path: Path
) -> None:
    project = shutil.copytree(chained.project, tmp_path / "project")
    file = project / "data" / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    for one, other in zip(rows[:50:2], rows[1:50:2], strict=True):  # which answer is whose
        one["output"], other["output"] = other["output"], one["output"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    workspace = Workspace(load_settings(project), chained.key, RunOf("test", "test", lambda line: None))
    before = version_artifacts(workspace.store, workspace.prefix)
    outcome = run_chain(workspace, up_to("training_plan"))
    assert outcome.error is None, outcome.error
    after = version_artifacts(workspace.store, workspace.prefix)
    mixture = after.heads["training_mixture"]
    assert mixture is not None
    assert mixture.digest != before.artifacts["training_mixture"].digest
    assert outcome.made["training_plan"].digest == before.artifacts["training_plan"].digest
    for stage in ("training_mixture", "task_dataset"):
        assert after.artifacts[stage] == before.artifacts[stage]
    assert after.sources_then == before.sources_then
