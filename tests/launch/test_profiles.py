"""A program has the credentials of its tenant's profile, and not those of who starts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from ft_dagster.launch.launcher import OUTPUT, Job, LocalLauncher
from ft_dagster.launch.leases import Leases

pytestmark = pytest.mark.slow


class Nothing(BaseModel):
    """What programs/program.py is asked: to end."""


class Environment(Job):
    """A job of programs/program.py, which writes its environment down."""

    @property
    def module(self) -> str:
        return "program"


@pytest.mark.usefixtures("each_start")
@pytest.mark.parametrize("profile", ["acme-prod", None])
def test_it_has_the_tenants_and_no_other(
    leases: Leases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str | None
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "platforms-secret")
    (tmp_path / "run" / OUTPUT).mkdir(parents=True)
    job = Environment("program", tmp_path / "run", Nothing(), None, {}, "acme.support", profile)
    launcher = LocalLauncher(leases)
    launcher.stage_in(job)
    started = launcher.start(job, print)
    while launcher.report(started, print) is None:
        pass
    launcher.cancel(started)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment.get("AWS_PROFILE") == profile
    assert environment["AWS_SECRET_ACCESS_KEY"] == ("platforms-secret" if profile is None else "")
