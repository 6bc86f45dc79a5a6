"""A new project: what lies outside of it is named to its platform, and nothing is overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ft_dagster.cli import app
from ft_dagster.errors import UserError
from ft_dagster.settings import load_settings
from ft_dagster.spec import VariantKey, load_variant
from ft_dagster.spec.start import start_project
from tests.spec.small_base import lay_base

KEY = VariantKey("acme", "support")
ROW = '{"prompt": "Where?", "completion": "There."}\n'


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FT_DAGSTER_SOURCES__BASES")
    made = tmp_path / "outside"
    (made / "rows, all").mkdir(parents=True)
    (made / "rows, all/a.jsonl").write_text(ROW)
    lay_base(made / "model")
    return made


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
        ("{project}/data/rows.jsonl", (".",)),
        ("org/rows", (".",)),
        ("s3://bucket/acme/*.jsonl", (".", "s3://bucket/acme")),
        ("s3://bucket/acme/rows.jsonl", (".", "s3://bucket/acme/rows.jsonl")),
        ("asset://warehouse/tickets", (".", "asset://warehouse/tickets")),
    ],
)
def test_what_is_inside_or_at_the_hub_adds_no_folder(
    tmp_path: Path, outside: Path, place: str, allowed: tuple[str, ...]
) -> None:
    start_project(tmp_path / "mine", KEY, "org/model", place.format(project=tmp_path / "mine"))
    assert load_settings(tmp_path / "mine").sources.allow == allowed


def test_settings_that_were_there_stay_and_it_is_said_what_they_lack(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/ft_dagster.yaml").write_text("tenant_runs: 3\n")
    started = start_project(tmp_path / "mine", KEY, "org/model", str(outside / "rows, all/*.jsonl"))
    assert load_settings(tmp_path / "mine").tenant_runs == 3
    assert "add it to sources.allow" in started.said[0]


def init(*given: str) -> Result:
    return CliRunner().invoke(app, ["init", "mine", *given])


def declared(project: Path) -> tuple[str | None, str]:
    """Base and rows of the declaration."""
    spec = load_variant(project, KEY).spec
    return spec.base_model.source, spec.data.sources[0].path


def test_init_counts_paths_from_where_it_is_called(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine/data").mkdir(parents=True)
    (tmp_path / "mine/data/yes: [1], #2.jsonl").write_text(ROW)
    monkeypatch.chdir(tmp_path)
    done = init("--base-model", "outside/model", "--data", "mine/data/yes: [1], #2.jsonl")
    assert done.exit_code == 0
    assert declared(tmp_path / "mine") == (str(outside / "model"), "data/yes: [1], #2.jsonl")
    monkeypatch.chdir(outside)
    other = VariantKey("acme", "other")
    given = [
        "init",
        "../mine",
        "--variant",
        str(other),
        "--base-model",
        "./model",
        "--data",
        "rows, all/*.jsonl",
    ]
    assert CliRunner().invoke(app, given).exit_code == 0
    spec = load_variant(tmp_path / "mine", other).spec
    assert spec.data.sources[0].path == str(outside / "rows, all/*.jsonl")
    assert spec.base_model.source == str(outside / "model")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        (("outside/models", "outside/rows, all/a.jsonl"), "--base-model", "no such base model folder"),
        (("./none", "outside/rows, all/a.jsonl"), "--base-model", "no such base model folder"),
        (("/nowhere/none", "outside/rows, all/a.jsonl"), "--base-model", "no such base model folder"),
        (("outside/rows, all", "outside/rows, all/a.jsonl"), "--base-model", "without config.json"),
        (("", "outside/rows, all/a.jsonl"), "--base-model", "an empty name"),
        (("outside/model", "rows.jsonl"), "--data", "no such file or folder"),
        (("outside/model", "outside/none"), "--data", "no such file or folder"),
        (("outside/model", "outside/*.csv"), "--data", "the glob matches nothing"),
        (("outside/model", "mine"), "--data", "no data file there"),
        (("org/model", "../none/rows.jsonl"), "--data", "no such file or folder"),
        (("org/model", ""), "--data", "an empty name"),
    ],
)
@pytest.mark.usefixtures("outside")
def test_init_refuses_a_base_or_rows_that_are_not_there_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, str], field: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    done = init("--base-model", given[0], "--data", given[1])
    assert isinstance(done.exception, UserError)
    assert done.exception.field == field
    assert said in str(done.exception)
    assert not list((tmp_path / "mine").iterdir())


def test_what_init_declares_is_looked_for_with_a_word_put_in_too(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert init("--base-model", "outside/model", "--data", "outside/rows, all/a.jsonl").exit_code == 0
    assert load_variant(tmp_path / "mine", KEY).spec.data.decontaminate.coverage == 0.6


def test_init_says_what_it_takes_for_a_name_of_the_hub(
    tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = init("--base-model", "org/model", "--data", "outside/rows, all/a.jsonl")
    assert "no org/model here: taken for a repository of the hub" in done.stdout
    assert declared(tmp_path / "mine")[0] == "org/model"


def test_the_policy_has_a_schema(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["schema", "--policy"])
    assert {"gates", "evaluation", "methods", "per_tenant"} <= set(json.loads(done.stdout)["properties"])


def test_a_new_project_asks_questions_while_it_trains_and_a_declaration_without_them_none(
    tmp_path: Path, outside: Path
) -> None:
    project = tmp_path / "mine"
    start_project(project, KEY, str(outside / "model"), str(outside / "rows, all" / "a.jsonl"))
    assert load_variant(project, KEY).spec.training.watch.questions == 20
    (project / "tenants/defaults.yaml").unlink()
    assert load_variant(project, KEY).spec.training.watch.questions == 0
