"""`ft-dagster report`: which page is written, under which name, and what does not go together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.errors import UserError
from tests.kept_project import OLD_PROJECT

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(OLD_PROJECT, tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "project"


def typed(project: Path, *words: str) -> Any:
    done = CliRunner().invoke(
        app, ["--project", str(project), "report", *words, "--json"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("words", "file", "title"),
    [
        (["acme.places", "--version", "1"], "acme.places@1.html", "acme.places version 1"),
        (
            ["acme.places", "--version", "2", "--against", "1"],
            "acme.places@2.against.1.html",
            "acme.places version 1 beside version 2",
        ),
        (
            ["acme.places", "--against", "1"],
            "acme.places.against.1.html",
            "acme.places version 1 beside version 3",
        ),
        (
            ["acme.places", "--against", "acme.colours@1"],
            "acme.places.against.acme.colours@1.html",
            "acme.colours version 1 beside acme.places version 3",
        ),
        (["--fleet"], "fleet.html", "Fleet"),
        (["--fleet", "--tenant", "acme"], "acme.html", "Fleet of acme"),
        (["--fleet", "--to", "here.html"], "here.html", "Fleet"),
    ],
)
def test_the_page_is_named_after_what_it_is_of(
    project: Path, words: list[str], file: str, title: str
) -> None:
    assert typed(project, *words)["file"] == file
    assert f"<h1>{title}</h1>" in Path(file).read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no variant named"),
        (["acme.places", "--fleet"], "--fleet is of all variants"),
        (["--fleet", "--against", "2"], "--fleet is of all variants"),
        (["acme.places", "--tenant", "acme"], "it goes with --fleet"),
        (["acme.places", "--against", "9"], "no such version|no version 9|9"),
        (["acme.places", "--to", "nowhere/x.html"], "No such file"),
    ],
)
def test_what_does_not_go_together_is_a_mistake(project: Path, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        typed(project, *words)


def test_compare_report_and_status_say_the_same_of_a_variant_and_of_what_to_do_next(project: Path) -> None:
    def said(*words: str) -> str:
        done = CliRunner().invoke(app, ["--project", str(project), *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    (compared,) = json.loads(said("compare", "acme.places", "--json"))["variants"]
    (state,) = json.loads(said("status", "acme.places", "--json"))["variants"]
    assert compared["base"] == "tiny"
    said("report", "acme.places", "--to", "page.html")
    page = Path("page.html").read_text("utf-8").replace("<code>", "`").replace("</code>", "`")
    for told in (state, compared):
        assert told["result"].startswith("Loss of the expected answers 6.66 → 2.72 on 12 questions. Released")
        assert f"Next: {told['next_step']}." in page
        assert told["result"] in page
    shown = said("compare", "acme.places")
    assert shown.startswith(f"acme.places: {compared['result']}\n  base: tiny\n")
    assert f"Next for acme.places: {compared['next_step']}\n" in shown
