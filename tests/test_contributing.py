"""What CONTRIBUTING.md tells a newcomer is so."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/releasing.md", "docs/training-step.md")
ROOMS = ("", "stages", "planning", "planning/methods", "training", "training/methods")


def named_and_absent(page: str) -> list[str]:
    text = (ROOT / page).read_text("utf-8")
    named = {*re.findall(r"`([\w/.]+\.(?:py|toml|md))`", text), *re.findall(r"\]\(([\w/.]+)[#)]", text)}
    places = ["", Path(page).parent.as_posix(), *(f"ft_dagster/{room}" for room in ROOMS)]
    assert named, page
    return [name for name in named if not any((ROOT / place / name).exists() for place in places)]


def test_every_file_that_a_page_names_is_there() -> None:
    assert {page: absent for page in PAGES if (absent := named_and_absent(page))} == {}


def test_pre_commit_runs_what_make_lint_runs() -> None:
    recipe = (ROOT / "Makefile").read_text("utf-8").partition("\nlint:")[2].split("\n\n")[0]
    linted = re.findall(r"\$\(BIN\)/([\w-]+(?: check| format)?)", recipe)
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    for command in linted:
        assert any(hook["entry"].startswith(f".venv/bin/{command}") for hook in hooks), command
