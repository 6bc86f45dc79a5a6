"""`show --row`: a row as the base reads it, what of it is trained, what is context, what is cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_dagster.cli import app
from tests.e2e.project import write_yaml

pytestmark = pytest.mark.slow

KEY = "acme.chats"
TURNS = [
    {"role": "user", "content": "Where is it?"},
    {"role": "assistant", "content": "There.", "weight": 0},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Here\u001b[2J it is."},
]


@pytest.fixture
def project(tmp_path: Path, tiny_model_folder: Path) -> Path:
    write_yaml(tmp_path / "ft_dagster.yaml", {"store": "store"})
    rows = [{"messages": TURNS[2:]}, {"messages": TURNS}, {"messages": [TURNS[0], TURNS[1]]}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    declare(tmp_path, tiny_model_folder)
    return tmp_path


def declare(project: Path, base: Path, on_too_long: str = "truncate", **training: Any) -> None:
    content = {
        "description": "x",
        "owners": ["me"],
        "base_model": str(base),
        "data": {"sources": ["chats.jsonl"], "train_on": "assistant_turns", "on_too_long": on_too_long},
        "training": training,
    }
    write_yaml(project / "tenants" / "acme" / "chats.yaml", content)


def shown(project: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["--project", str(project), "show", KEY, *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_row_is_shown_with_what_is_trained_and_what_is_context(project: Path) -> None:
    found = json.loads(shown(project, "--row", "2", "--json"))
    pieces = found["pieces"]
    assert found["place"] == "chats.jsonl:2"
    assert [piece["part"] for piece in pieces] == ["context", "trained", "context"]
    assert "There." in pieces[0]["text"]
    assert pieces[1]["text"] == "Here\u001b[2J it is.<|im_end|>"
    assert "".join(piece["text"] for piece in pieces).count("<|im_start|>") == 4
    assert found["tokens"]["cut"] == 0


def test_turns_after_the_last_trained_answer_are_said_not_to_be_read(project: Path) -> None:
    file = project / "chats.jsonl"
    ends = {"messages": [*TURNS, *TURNS[:2]]}
    file.write_text(f"{json.dumps(ends)}\n{file.read_text('utf-8')}", "utf-8")
    found, said = (
        json.loads(shown(project, "--row", "1", "--json")),
        "up to its last trained answer",
    )
    assert found["read"] == said
    assert found["pieces"] == json.loads(shown(project, "--row", "3", "--json"))["pieces"]
    assert f"; read: {said}\n" in shown(project, "--row", "1")
    assert "; read" not in shown(project, "--row", "3")


@pytest.mark.parametrize(
    ("longest", "on_too_long", "why"),
    [
        (24, "drop", "too long"),
        (24, "refuse", "too long, which data.on_too_long refuses"),
        (16, "truncate", "no trained tokens"),
        (24, "truncate", ""),
        (200, "refuse", ""),
    ],
)
def test_a_row_that_the_mixture_leaves_out_is_said_to_be(
    longest: int, on_too_long: str, why: str, project: Path, tiny_model_folder: Path
) -> None:
    declare(project, tiny_model_folder, on_too_long, max_length=longest)
    found = json.loads(shown(project, "--row", "1", "--json"))
    assert found["left_out"] == why
    assert bool(found["tokens"]["cut"]) == (longest < 200)
    printed = shown(project, "--row", "1")
    assert (f"; left out: {why}; tokens: " in printed) == bool(why)


def test_a_row_turns_no_line_around(project: Path) -> None:
    row = {"messages": [TURNS[0], {"role": "assistant", "content": "a\u202eb\u2066c"}]}
    (project / "chats.jsonl").write_text(json.dumps(row), "utf-8")
    assert "«a�b�c<|im_end|>»" in shown(project, "--row", "1")


def test_a_row_moves_no_cursor(project: Path) -> None:
    printed = shown(project, "--row", "2")
    assert "«Here�[2J it is.<|im_end|>»" in printed
    assert "\u001b" not in printed


def test_what_is_cut_off_is_shown(project: Path, tiny_model_folder: Path) -> None:
    whole = json.loads(shown(project, "--row", "1", "--json"))["tokens"]
    length = whole["context"] + whole["trained"] - 4
    declare(project, tiny_model_folder, max_length=max(16, length))
    cut = json.loads(shown(project, "--row", "1", "--json"))["tokens"]
    assert cut["cut"] > 0
    assert sum(cut.values()) == sum(whole.values())
    assert "✂" in shown(project, "--row", "1")


def test_a_malformed_row_says_why_no_model_sees_it(project: Path) -> None:
    found = json.loads(shown(project, "--row", "3", "--json"))
    assert (found["left_out"], found["pieces"]) == ("no answer is trained", [])


def test_a_row_that_is_not_there_is_refused(project: Path) -> None:
    for number in ("9", str(10**30)):
        result = CliRunner().invoke(app, ["--project", str(project), "show", KEY, "--row", number])
        assert "the sources have fewer rows" in str(result.exception)


def test_without_colours_the_marks_of_each_part_are_explained(project: Path) -> None:
    printed = shown(project, "--row", "2")
    assert " trained (« »)" in printed
    assert "«Here" in printed
    assert "✂" not in printed
