"""A new project: what lies outside of it is named to its platform, and nothing is overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey
from ft_dagster.spec.start import start_project

KEY = VariantKey("acme", "support")


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FT_DAGSTER_SOURCES__BASES")
    for name in ("rows, all/a.jsonl", "model/config.json"):
        (tmp_path / "outside" / name).parent.mkdir(parents=True)
        (tmp_path / "outside" / name).write_text("{}")
    return tmp_path / "outside"


def test_rows_and_a_base_outside_are_added_to_what_tenants_read_and_it_is_said(
    tmp_path: Path, outside: Path
) -> None:
    project = tmp_path / "mine"
    rows = outside / "rows, all" / "a.jsonl"
    started = start_project(project, KEY, str(outside / "model"), str(rows))
    roots = load_settings(project).roots("acme")
    assert roots.may_read(rows)
    assert roots.may_read(outside / "model", base=True)
    assert not roots.may_read(outside / "model")
    assert [line.split(" lies outside")[0] for line in started.said] == [
        str(rows.parent),
        str(outside / "model"),
    ]


@pytest.mark.parametrize(
    ("place", "allowed"),
    [
        ("data/rows.jsonl", (".",)),
        ("org/rows", (".",)),
        ("s3://bucket/acme/*.jsonl", (".", "s3://bucket/acme")),
        ("s3://bucket/acme/rows.jsonl", (".", "s3://bucket/acme/rows.jsonl")),
        ("asset://warehouse/tickets", (".", "asset://warehouse/tickets")),
    ],
)
def test_what_is_inside_or_at_the_hub_adds_no_folder(
    tmp_path: Path, outside: Path, place: str, allowed: tuple[str, ...]
) -> None:
    start_project(tmp_path / "mine", KEY, "org/model", place)
    assert load_settings(tmp_path / "mine").sources.allow == allowed


def test_settings_that_were_there_stay_and_it_is_said_what_they_lack(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/ft_dagster.yaml").write_text("tenant_runs: 3\n")
    started = start_project(tmp_path / "mine", KEY, "org/model", "../outside/rows, all/*.jsonl")
    assert load_settings(tmp_path / "mine").tenant_runs == 3
    (line,) = started.said
    assert "add it to sources.allow" in line


def test_the_policy_has_a_schema(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["schema", "--policy"])
    assert {"gates", "evaluation", "methods", "per_tenant"} <= set(json.loads(done.stdout)["properties"])
