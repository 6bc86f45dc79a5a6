"""Every command in a terminal of 80 columns: nothing is cut, no table is wider."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ft_dagster.cli import app, common
from tests.kept_project import copied_project

pytestmark = pytest.mark.slow
WIDTH = 80
ROW = json.dumps(
    {"instruction": "Where is the account of the north?", "input": "", "output": "The account is north."}
)
PLACES, TO = "acme.places", "{folder}/out"
LINES = re.compile("[│┃━─╭╰]")
ASKED = [
    ["init", TO, "--base-model", "models/tiny", "--data", "rows.jsonl"],
    ["check"],
    ["show", PLACES],
    ["plan", PLACES],
    ["recommend", "--params", "8e9", "--examples", "5000", "--gpus", "1xA100-80GB"],
    ["status"],
    ["status", PLACES],
    ["compare", PLACES],
    ["compare", PLACES, "acme.colours", "globex.places", "globex.strict"],
    ["gpus"],
    ["fleet", "due"],
    ["fleet", "rebuild"],
    ["cost", "--by", "variant"],
    ["metrics", "--once"],
    ["upgrade", "--plan"],
    ["rollback", PLACES, "--reason", "worse"],
    ["release", PLACES, "--version", "1", "--force", "--reason", "better"],
    ["history", PLACES],
    ["catalogue"],
    ["report", PLACES, "--to", TO],
    ["trace", PLACES],
    ["store", "du"],
    ["store", "gc", "--dry-run"],
    ["store", "copy", "{folder}/project/store", TO],
    ["audit", "record", ROW, "--near", "0.8"],
    ["audit", "record", "nobody wrote this"],
    ["audit", "model", PLACES],
    ["audit", "at", PLACES, "2030-01-01"],
    ["audit", "source", "data/places.jsonl"],
    ["audit", "tenant", "acme"],
    ["audit", "diff", f"{PLACES}@1", f"{PLACES}@3"],
    ["audit", "verify", "--all"],
    ["audit", "index"],
    ["audit", "key", "list"],
    ["audit", "key", "rotate", "acme"],
    ["audit", "key", "backup", TO],
    ["audit", "prove", ROW, PLACES, "--to", TO],
    ["audit", "check", "{folder}/proof.json"],
    ["audit", "key", "restore", "{folder}/keys.json"],
]
LONG = {  # what trains or serves; their tables are tested where they are made
    *("run", "try", "ui", "bakeoff", "sweep", "schema", "audit replay"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the kept project, a proof and a backup of keys in it; commands think that they have a terminal."""
    project = copied_project(tmp_path, monkeypatch)
    for words in (["audit", "prove", ROW, PLACES, "--to", f"{tmp_path}/proof.json"],
                  ["audit", "key", "backup", f"{tmp_path}/keys.json"]):  # fmt: skip
        assert CliRunner().invoke(app, ["--project", str(project), *words]).exit_code == 0
    monkeypatch.setattr(common.out, "_width", WIDTH)
    monkeypatch.setattr(common.out, "_force_terminal", True)
    monkeypatch.setattr(common.out, "no_color", True)
    return tmp_path


@pytest.mark.parametrize("words", ASKED, ids=lambda words: " ".join(words)[:40])
def test_no_command_cuts_what_it_says(folder: Path, words: list[str]) -> None:
    given = [word.replace("{folder}", str(folder)) for word in words]
    done = CliRunner().invoke(app, ["--project", str(folder / "project"), *given], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.output)
    assert "…" not in said
    assert [line for line in said.splitlines() if LINES.search(line) and len(line) > WIDTH] == []


def paths(command: Any, name: str = "") -> Iterator[str]:
    """ "store du" of each command."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name
        return
    for each, child in below.items():
        yield from paths(child, f"{name} {each}".strip())


def test_all_commands_are_tried() -> None:
    every = set(paths(typer.main.get_command(app)))
    tried = {name for name in every for words in ASKED if f"{' '.join(words)} ".startswith(f"{name} ")}
    assert every - tried == LONG


def test_no_help_cuts_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    every = sorted(paths(typer.main.get_command(app)))
    for words in ([], *(name.split() for name in every), ["store"], ["audit"], ["audit", "key"], ["fleet"]):
        said = CliRunner().invoke(app, [*words, "--help"]).output
        assert "…" not in said, words
        assert max(map(len, said.splitlines())) <= WIDTH, words
