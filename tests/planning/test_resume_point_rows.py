"""A plan says what resume points take, and what part of a training a training without one record takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from tests.e2e.project import POLICY, write_yaml
from tests.kept_project import copied_project

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("points", [0, 3])
def test_a_plan_says_what_resume_points_take_and_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: int
) -> None:
    project = copied_project(tmp_path, monkeypatch)
    write_yaml(project / "policy.yaml", POLICY)
    monkeypatch.setenv("FT_DAGSTER_PROJECT", str(project))
    monkeypatch.setenv("FT_DAGSTER_RETENTION__RESUME_POINTS", str(points))
    done = CliRunner().invoke(app, ["--project", str(project), "plan", "acme.places"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    said = "from them a training without one record takes 94% of the steps on average"  # six passes
    assert (said in done.stdout) == ("resume points: at most" in done.stdout) == bool(points)
