"""Imports files by the command line, and says what came of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from ft_dagster.cli import app
from ft_dagster.errors import UserError

DESKS = ("billing", "delivery", "support")
MANY = "1000000"  # more than any fixture drops
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


def chat(number: int, **more: Any) -> dict[str, Any]:
    """Return a row of a question and its answer, one of three labels."""
    asked = {"role": "user", "content": f"Letter {number} never came."}
    return {"messages": [asked, {"role": "assistant", "content": DESKS[number % 3]}], **more}


def call(place: str, id_: str = "call_1") -> dict[str, Any]:
    """Return a call of the one tool."""
    arguments = json.dumps({"place": place})
    return {"id": id_, "type": "function", "function": {"name": "weather", "arguments": arguments}}


def pair(number: int) -> dict[str, Any]:
    """Return a preference pair in the form of the service."""
    asked = {"role": "user", "content": f"Letter {number}?"}
    return {
        "input": {"messages": [asked], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [{"role": "assistant", "content": "It is on its way."}],
        "non_preferred_output": [{"role": "assistant", "content": "No idea."}],
    }


def lines(file: str, rows: Sequence[dict[str, Any]]) -> str:
    """Write rows as JSON lines."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def job(file: str = "job.json", **fields: Any) -> str:
    """Write a job."""
    Path(file).write_text(json.dumps({"object": "fine_tuning.job", **fields}, indent=2), "utf-8")
    return file


def configured(file: str = "config.yaml", **fields: Any) -> str:
    """Write a configuration."""
    Path(file).write_text(yaml.safe_dump(fields, sort_keys=False), "utf-8")
    return file


def imported(origin: str, *words: str, allow: str = MANY) -> dict[str, Any]:
    """Import into the project `mine`; return the JSON that is printed."""
    named = ["--project", "mine", "import", origin, *words, "--allow-dropped", allow, "--json"]
    done = CliRunner().invoke(app, named)
    assert done.exit_code == 0, (done.output, done.exception)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def refused(origin: str, *words: str, allow: str = MANY) -> UserError:
    """Import, which is refused; return the error."""
    done = CliRunner().invoke(app, ["--project", "mine", "import", origin, *words, "--allow-dropped", allow])
    assert isinstance(done.exception, UserError), (done.output, done.exception)
    return done.exception


def outcomes(document: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    """Return what became of each field: the outcome, and the field here."""
    return {each["field"]: (each["outcome"], each["here"]) for each in document["fields"]}


def declaration(document: dict[str, Any]) -> dict[str, Any]:
    """Return the declaration that is on disk, which is the one that was printed."""
    text = Path(document["declaration"]["file"]).read_text("utf-8")
    assert text == document["declaration"]["text"]
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def rows_of(document: dict[str, Any], number: int = 0) -> list[dict[str, Any]]:
    """Return the rows of a source of the declaration."""
    path = Path("mine") / declaration(document)["data"]["sources"][number]["path"]
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def value_at(content: Any, path: str) -> Any:
    """Return the value of a dotted field."""
    for name in path.split("."):
        content = content[name]
    return content
