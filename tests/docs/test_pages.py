"""The pages for people: links lead somewhere, commands are commands, the tutorial begins as it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.cli.commands import all_commands
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantSpec
from tests.docs.page_commands import FENCE, commands

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
    *sorted((ROOT / "benchmarks").rglob("README.md")),
    *sorted((ROOT / "benchmarks" / "notes").glob("*.md")),
]
LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
PLACES = ("/path/to/examples/demo/models/smollm2-135m", "/path/to/tutorial/data/post/letters.csv")


@cache
def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text("utf-8"))
    titles = re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles)
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in plain}


def dead_links(page: Path) -> Iterator[str]:
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        place, _, anchor = link.partition("#")
        if place.startswith(("http://", "https://", "mailto:")):
            if not re.fullmatch(r"https://[\w.-]+\.[a-z]+(:\d+)?(/\S*)?|mailto:\S+@\S+", place):
                yield f"{link}: of no right form"
            continue
        target = page if not place else (page.parent / place).resolve()
        if not target.exists():
            yield f"{link}: not there"
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            yield f"{link}: no such heading"


def test_every_link_of_a_page_leads_somewhere() -> None:
    assert {str(page.relative_to(ROOT)): wrong for page in PAGES if (wrong := [*dead_links(page)])} == {}


def ragged_rows(page: Path) -> Iterator[str]:
    """Yield the rows of tables with another number of cells than the table's head: a plain | ends a cell."""
    text = FENCE.sub("", page.read_text("utf-8"))
    for table in re.findall(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE):
        first, *others = table.splitlines()
        cells = len(re.findall(r"(?<!\\)\|", first))
        yield from (row for row in others if len(re.findall(r"(?<!\\)\|", row)) != cells)


def test_each_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    assert {str(page.relative_to(ROOT)): wrong for page in PAGES if (wrong := [*ragged_rows(page)])} == {}


def test_the_front_pages_declaration_has_ten_lines_and_is_valid() -> None:
    [written] = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(written.splitlines()) == 10
    spec = VariantSpec.model_validate(yaml.safe_load(written))
    assert spec.release.approvers == ("ann",)


program = cache(all_commands)


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words call, and what is left of them."""
    command: Any = program()
    while words and command is not None and hasattr(command, "commands"):
        if words[0] == "--project":
            words = words[2:]
        else:
            command, words = command.commands.get(words[0]), words[1:]
    return command, words


def wrong_commands(page: Path) -> Iterator[str]:
    for words in commands(page.read_text("utf-8")):
        command, given = command_of(words)
        if command is None or hasattr(command, "commands"):
            if not any(word in ("--help", "...", "<command>") or word.isupper() for word in words):
                yield " ".join(words)
            continue
        known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        options = {word.partition("=")[0] for word in given if word.startswith("--")}
        yield from (f"{' '.join(words)}: {option}" for option in options - known - {"--help", "--"})


def test_every_command_of_a_page_is_one_with_its_options() -> None:
    found = {str(page.relative_to(ROOT)): wrong for page in PAGES if (wrong := [*wrong_commands(page)])}
    assert found == {}


def test_the_tutorial_shows_the_declaration_that_init_writes_and_its_first_commands_run(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess
    import sys

    prepare = ROOT / "examples" / "patterns" / "prepare.py"
    subprocess.run([sys.executable, str(prepare), str(tmp_path / "tutorial")], check=True)
    rows = tmp_path / "tutorial" / "data" / "post" / "letters.csv"
    assert "My parcel never came to 1 Mill Street.,delivery" in rows.read_text("utf-8")
    assert "My parcel never came to 1 Mill Street.,delivery" in TUTORIAL
    [started] = [words for words in commands(TUTORIAL) if words[0] == "init"]
    places = {"--base-model": str(tiny_model_folder), "--data": str(rows)}
    given = [places.get(before, word) for before, word in zip(["", *started], started, strict=False)]
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, given).exit_code == 0
    project = tmp_path / "tutorial" / "project"
    [shown] = re.findall(r"```yaml\n(description.*?)```", TUTORIAL, re.DOTALL)
    for of_the_page, here in zip(PLACES, places.values(), strict=True):
        shown = shown.replace(of_the_page, here)
    assert (project / "tenants" / "post" / "triage.yaml").read_text("utf-8") == shown
    done = CliRunner().invoke(app, ["--project", str(project), "check", "--json"])
    assert done.exit_code == 0, done.stdout
    [variant] = json.loads(done.stdout)["variants"]
    assert "all 450 rows of" in variant["summary"]
    assert [line for line in variant["warnings"] if "optimizer steps" not in line] == []


def test_settings_that_pages_show_are_settings() -> None:
    for page in sorted((ROOT / "docs").glob("*.md")):
        for text in re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            content = yaml.safe_load(text)
            if text.startswith("# ft_dagster.yaml") or set(content) <= {"registry"}:
                Settings(project=ROOT, **content)
