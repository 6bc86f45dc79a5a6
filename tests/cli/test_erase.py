"""The commands of an erasure, typed, over the kept store of an earlier version and a new one."""

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
from tests.audit.histories import History, question
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


def test_a_request_is_logged_for_each_tenant_and_clocked(tmp_path: Path) -> None:
    made = History(tmp_path / "project")
    rows = [question(number) for number in range(30)]
    made.dataset("acme.one", rows)
    made.dataset("globex.two", rows)
    file = tmp_path / "row.jsonl"
    file.write_text(json.dumps(rows[3]))
    typed(made.folder, "request", str(file), *REASON, "--by", "ann")
    first, second = typed(made.folder, "status", "--json")["requests"]
    assert {first["asked"]["owner"], second["asked"]["owner"]} == {"acme", "globex"}
    assert first["asked"]["request"] == second["asked"]["request"]
    assert (first["status"], first["days_left"] in (28, 29, 30, 31)) == ("approved", True)
    stored = b"".join(one.read_bytes() for one in made.folder.rglob("erasures/*/*.json"))
    assert rows[3]["prompt"].encode() not in stored
    named = first["asked"]["request"]
    typed(made.folder, "hold", named[:6], "--reason", "a trial")
    assert "on hold: a trial" in typed(made.folder, "status")
    assert "a trial" in refusal(made.folder, "approve", named, "--reason", "x")
    typed(made.folder, "hold", named, "--reason", "ended", "--lift")
    assert "on hold" not in typed(made.folder, "status")


def test_the_approvers_of_the_policy_approve(project: Path, tmp_path: Path) -> None:
    (project / "policy.yaml").write_text("schema_version: 1\napprovers: [dpo]\n")
    typed(project, "request", str(tmp_path / "row.jsonl"), *REASON, "--tenant", "acme", "--by", "ann")
    (asked,) = typed(project, "status", "--json")["requests"]
    assert asked["status"] == "waits for approval by dpo"
    named = asked["asked"]["request"]
    assert "Ask dpo" in refusal(project, "approve", named, "--reason", "x", "--by", "ann")
    typed(project, "approve", named, "--reason", "x", "--by", "dpo")
    assert typed(project, "status", "--json")["requests"][0]["status"] == "approved"


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
        (["approve", "zzz", *REASON], "no such request"),
        (["request", "{none}", *REASON], "nothing here holds these records"),
    ],
)
def test_each_mistake_is_one_line_and_repeats_no_text(
    project: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    (tmp_path / "none.jsonl").write_text('{"prompt": "nobody asked", "completion": "no"}')
    places = {"{row}": str(tmp_path / "row.jsonl"), "{none}": str(tmp_path / "none.jsonl")}
    line = refusal(project, *(places.get(word, word) for word in words))
    assert said in line
    assert "\n" not in line
    assert "Jane" not in line
