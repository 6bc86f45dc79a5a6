"""A policy on how models are trained asks that of the training that a version came from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.settings import load_settings
from ft_dagster.stages.judging.may_serve import may_serve, version_in
from ft_dagster.workspace.workspace import Workspace
from tests.e2e.project import POLICY, edit, write_yaml

pytestmark = pytest.mark.slow


def test_a_version_is_held_against_what_it_was_trained_by_and_not_against_todays_declaration(
    chained: Workspace, tmp_path: Path
) -> None:
    project = shutil.copytree(chained.project, tmp_path / "project")
    watched = {"watch": {"questions": 4}}
    edit(project / "tenants/acme/places.yaml", lambda content: content["training"].update(watched))
    settings = load_settings(project)
    version = version_in(settings, chained.key, None)
    assert may_serve(settings, chained.key, version) is None
    write_yaml(project / "policy.yaml", {**POLICY, "training": {"watch_questions": 4}})
    settings = load_settings(project)
    with pytest.raises(UserError, match="at least 4 questions of each benchmark") as refused:
        may_serve(settings, chained.key, version_in(settings, chained.key, None))
    assert "training.watch.questions" in str(refused.value)


def test_a_version_with_too_little_general_text_is_not_served(chained: Workspace, tmp_path: Path) -> None:
    project = shutil.copytree(chained.project, tmp_path / "project")
    for share, said in ((0.08, None), (0.09, "at least 0.09")):
        write_yaml(project / "policy.yaml", {**POLICY, "data": {"general_share": share}})
        settings = load_settings(project)
        version = version_in(settings, chained.key, None)
        if said is None:
            assert may_serve(settings, chained.key, version) is None
        else:
            with pytest.raises(UserError, match=said):
                may_serve(settings, chained.key, version)
