"""The commands of an erasure, typed, over the kept store of an earlier version."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.errors import UserError
from tests.kept_project import OLD_PROJECT

pytestmark = pytest.mark.slow
ROW = json.dumps(
    {"instruction": "Where is the account of the north?", "input": "", "output": "The account is north."}
)
REASON = ("--reason", "art. 17")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("DAGSTER_", "FT_DAGSTER"))]:
        monkeypatch.delenv(name)
    made = shutil.copytree(OLD_PROJECT, tmp_path / "project")
    (tmp_path / "row.jsonl").write_text(ROW)
    return made


def typed(project: Path, *words: str, given: str | None = None) -> Any:
    done = CliRunner().invoke(
        app, ["--project", str(project), "erase", *words], input=given, catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if "--json" in words else done.stdout


def refusal(project: Path, *words: str) -> str:
    done = CliRunner().invoke(app, ["--project", str(project), "erase", *words])
    assert isinstance(done.exception, UserError), done.output
    return str(done.exception)


def test_a_dry_run_says_places_models_retrains_and_the_day(project: Path, tmp_path: Path) -> None:
    told = typed(project, str(tmp_path / "row.jsonl"), *REASON, "--deadline", "2099-01-31", "--json")
    assert {each["variant"] for each in told["retrains"]} == {
        "acme.places", "acme.colours", "globex.places", "globex.strict",
    }  # fmt: skip
    order = [each["variant"] for each in told["retrains"]]
    assert order.index("acme.places") < order.index("acme.colours")
    assert all(each["hours"] > 0 for each in told["retrains"])
    assert (told["due"], told["due_by"].split(",")[0]) == ("2099-01-31", "as said")
    said = typed(project, "plan", str(tmp_path / "row.jsonl"), *REASON)
    assert "nothing is changed" in said
    assert "one month from today (GDPR art. 12(3))" in said
    assert "acme.colours trains again, after acme.places" in said


def test_one_tenants_auditor_is_told_of_no_other(project: Path, tmp_path: Path) -> None:
    told = typed(project, str(tmp_path / "row.jsonl"), *REASON, "--tenant", "globex", "--json")
    assert "acme" not in json.dumps(told)


def test_records_and_texts_come_from_standard_input(project: Path) -> None:
    rows = typed(project, "-", *REASON, "--json", given=ROW)
    found = typed(project, "--contains", "-", *REASON, "--json", given="account of the north")
    assert found["searched_bytes"] > 0
    assert {each["variant"] for each in rows["retrains"]} <= {each["variant"] for each in found["retrains"]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Jane Doe", *REASON], "no such file"),
        (["--contains", "Jane Doe", *REASON], "no such file"),
        ([*REASON], "what is to be erased is not clear"),
        (["{row}", "--contains", "{row}", *REASON], "what is to be erased is not clear"),
        (["{row}", "--reason", " "], "no reason is given"),
        (["{row}", *REASON, "--deadline", "soon"], "not a day"),
        (["{row}", *REASON, "--deadline", "2001-01-01"], "a day that is past"),
        (["{row}", *REASON, "--within", "acme"], "no text is searched for"),
    ],
)
def test_each_mistake_is_one_line_and_repeats_no_text(
    project: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    line = refusal(project, *(str(tmp_path / "row.jsonl") if word == "{row}" else word for word in words))
    assert said in line
    assert "\n" not in line
    assert "Jane" not in line
