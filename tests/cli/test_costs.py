"""`ft-dagster cost`, on the store of an earlier version, and where that store is gone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.exit_codes import BAD_INPUT
from ft_dagster.fleet.decision import sqlite_url
from ft_dagster.fleet.refresh.lost_store import refuse_lost_store
from ft_dagster.fleet.table.table import FleetTable
from ft_dagster.settings import load_settings
from tests.e2e.instance import BIN
from tests.e2e.project import command_environment
from tests.kept_project import answer, copied_project
from tests.long import mostly_long

pytestmark = pytest.mark.slow

COUNTED = ("training_plan", "fine_tuned_model", "base_evaluation", "evaluation", "model_export")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copied_project(tmp_path, monkeypatch)


def typed(project: Path, *words: str) -> Any:
    return answer(project, "cost", *words)


def trainings(told: Any) -> dict[str, int]:
    return {row["name"]: row["trainings"] for row in told["rows"]}


def test_hours_are_those_of_the_manifests(project: Path) -> None:
    models = [json.loads(f.read_bytes()) for f in project.rglob("fine_tuned_model/*/manifest.json")]
    seconds = [model["predicate"]["figures"]["seconds"] for model in models]
    told = typed(project, "--json")
    assert told["total"]["trainings"] == len(models) == sum(trainings(told).values())
    assert told["total"]["training_hours"] == pytest.approx(sum(seconds) / 3600)
    assert told["total"]["cpu_hours"] == told["total"]["hours"] > told["total"]["training_hours"]
    assert told["total"]["planned_hours"] > 0
    assert told["manifests"] == sum(len([*project.rglob(f"{stage}/*/manifest.json")]) for stage in COUNTED)


def test_a_row_is_what_is_asked_for(project: Path) -> None:
    assert trainings(typed(project, "--json")) == {"acme": 4, "globex": 2, "shared": 0}
    assert set(trainings(typed(project, "--by", "variant", "--json"))) == {
        "acme.colours", "acme.places", "globex.places", "globex.strict", "shared",
    }  # fmt: skip
    versions = trainings(typed(project, "--by", "version", "--json"))
    assert {name for name in versions if "places v" in name} == {
        "acme.places v1", "acme.places v2", "acme.places v3", "globex.places v1",
    }  # fmt: skip
    assert versions["globex.strict, not released"] == 1
    assert trainings(typed(project, "--by", "month", "--json")) == {"2026-11": 6}


def test_one_tenant_alone(project: Path) -> None:
    told = typed(project, "--tenant", "globex", "--json")
    assert set(trainings(told)) == {"globex"}
    assert told["total"]["trainings"] == 2


def test_days_are_those_of_the_fleets_time_zone(project: Path) -> None:
    """The store was made between one and two in the night of 26 November, UTC."""
    assert typed(project, "--since", "2026-11-26", "--json")["total"]["trainings"] == 6
    assert typed(project, "--until", "2026-11-26", "--json")["total"]["trainings"] == 6
    assert typed(project, "--until", "2026-11-25", "--json")["total"]["trainings"] == 0
    assert (
        typed(project, "--since", "0001-01-01", "--until", "9999-12-31", "--json")["total"]["trainings"] == 6
    )
    settings = project / "ft_dagster.yaml"
    settings.write_text(settings.read_text("utf-8") + "fleet: {timezone: America/New_York}\n")
    assert typed(project, "--since", "2026-11-26", "--json")["total"]["trainings"] == 0
    assert typed(project, "--until", "2026-11-25", "--json")["total"]["trainings"] == 6


@pytest.mark.parametrize(
    ("words", "field"),
    [(["--since", "yesterday"], "--since"), (["--since", "2026-03-02", "--until", "2026-03-01"], "--until")],
)
def test_a_period_that_is_none_is_refused(project: Path, words: list[str], field: str) -> None:
    with pytest.raises(UserError) as refused:
        typed(project, *words)
    assert refused.value.field == field


def test_the_table_fits_80_columns(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ft_dagster.cli.common.out.width", 80)
    said = typed(project)
    assert max(map(len, said.splitlines())) <= 80
    assert "manifests read" in said
    assert "no price is known" in said


@pytest.mark.parametrize(
    "words", mostly_long([["cost"], ["upgrade", "--plan"], ["upgrade", "--plan", "--share", "0.5"]], every=3)
)
def test_a_store_that_is_gone_is_one_line_and_no_figure(project: Path, words: list[str]) -> None:
    home = project / ".ft_dagster" / "dagster_home"
    home.mkdir(parents=True)
    refuse_lost_store(load_settings(project).open_store(), FleetTable(sqlite_url(home)))  # as a tick does

    def typed() -> subprocess.CompletedProcess[str]:
        environment = command_environment(project)
        return subprocess.run(
            [BIN / "ft-dagster", *words], env=environment, capture_output=True, text=True, check=False
        )

    assert typed().returncode == 0
    (project / "store").rename(project / "elsewhere")
    gone = typed()
    assert (gone.returncode, gone.stdout) == (BAD_INPUT, "")
    (line,) = gone.stderr.splitlines()
    assert "the store holds nothing, and artifacts were made before" in line
