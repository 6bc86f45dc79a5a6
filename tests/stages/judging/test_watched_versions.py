"""A policy on how models are trained asks that of the training that a version came from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ft_dagster.settings import load_settings
from ft_dagster.stages.judging.may_serve import Today, in_production
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import POLICY, edit, write_yaml
from tests.present import present

pytestmark = pytest.mark.slow


def test_a_version_is_held_against_what_it_was_trained_by_and_not_against_todays_declaration(
    chained: Workspace, tmp_path: Path
) -> None:
    project = shutil.copytree(chained.project, tmp_path / "project")
    watched = {"watch": {"questions": 4}}
    edit(project / "tenants/acme/places.yaml", lambda content: content["training"].update(watched))
    settings = load_settings(project)
    assert in_production(Today.of(settings, chained.key)) is None
    write_yaml(project / "policy.yaml", {**POLICY, "training": {"watch_questions": 4}})
    standing = present(in_production(Today.of(load_settings(project), chained.key)))
    assert [finding.field for finding in standing.findings] == ["training.watch.questions"]
    assert "at least 4 questions of each benchmark" in standing.findings[0].words


def test_a_version_with_too_little_general_text_is_not_served(chained: Workspace, tmp_path: Path) -> None:
    project = shutil.copytree(chained.project, tmp_path / "project")
    for share, fields in ((0.08, []), (0.09, ["data.general.share"])):
        write_yaml(project / "policy.yaml", {**POLICY, "data": {"general_share": share}})
        standing = in_production(Today.of(load_settings(project), chained.key))
        found = [] if standing is None else [finding.field for finding in standing.findings]
        assert found == fields
