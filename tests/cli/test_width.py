"""Every command in a terminal of 80 columns: nothing is cut, no table is wider."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ft_dagster.cli import app, common
from ft_dagster.cli.cells import Cell
from ft_dagster.cli.commands import all_commands
from tests.audit.histories import History, question
from tests.e2e.project import POLICY, write_yaml
from tests.kept_project import copied_project
from tests.long import mostly_long
from tests.versions.imports.imported import chat

pytestmark = pytest.mark.slow
WIDTH = 80
ROW = json.dumps(
    {"instruction": "Where is the account of the north?", "input": "", "output": "The account is north."}
)
PLACES = "acme.places"
LINES = re.compile("[│┃━─╭╰]")
ASKED = [
    [
        "init",
        "{folder}/new",
        "--base-model",
        "{folder}/project/models/tiny",
        "--data",
        "{folder}/project/data/places.jsonl",
    ],
    ["check", PLACES],
    ["show", PLACES],
    ["plan", PLACES],
    ["recommend", "--model", "{folder}/project/models/tiny", "--examples", "50", "--gpus", "1xT4"],
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
    ["rollback", PLACES, "--to-nothing", "--reason", "worse"],
    ["release", PLACES, "--version", "1", "--force", "--reason", "better"],
    ["history", PLACES],
    ["cancel", PLACES],
    ["catalogue"],
    ["report", PLACES, "--to", "{folder}/page.html"],
    ["trace", PLACES],
    ["publish", PLACES, "--folder", "{folder}/published"],
    ["store", "du"],
    ["store", "gc", "--dry-run"],
    ["store", "copy", "{folder}/project/store", "{folder}/copy"],
    ["audit", "record", ROW, "--near", "0.8"],
    ["audit", "record", "nobody wrote this"],
    ["audit", "model", PLACES],
    ["audit", "at", PLACES, "2026-11-29"],
    ["audit", "source", "data/places.jsonl"],
    ["audit", "tenant", "acme"],
    ["audit", "diff", f"{PLACES}@1", f"{PLACES}@3"],
    ["audit", "verify", "--all"],
    ["audit", "index"],
    ["audit", "key", "list"],
    ["audit", "key", "rotate", "acme"],
    ["audit", "key", "backup", "{folder}/again.json"],
    ["audit", "key", "restore", "{folder}/keys.json"],
    ["trust", "new-key", "builder-2027"],
    ["trust", "list"],
    ["trust", "checkpoints"],
    ["erase", "plan", "{folder}/row.jsonl", "--reason", "art. 17"],
    ["erase", "--contains", "{folder}/row.txt", "--reason", "art. 17"],
    ["erase", "request", "{folder}/row.jsonl", "--reason", "art. 17", "--by", "me"],
    ["erase", "status"],
]
MOVED = ["--base-model", "{folder}/project/models/tiny", "--allow-dropped", "9", "--dry-run"]
TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
CHAT_ROWS = {
    "file_name": "chat.jsonl",
    "formatting": "sharegpt",
    "columns": {"messages": "messages"},
    "tags": TAGS,
}
CONFIGURATIONS = {
    "axolotl": {"adapter": "lora", "datasets": [{"path": "{folder}/chat.jsonl", "type": "chat_template"}]},
    "llamafactory": {"stage": "sft", "finetuning_type": "lora", "dataset": "chat", "dataset_dir": "{folder}"},
}
ASKED += [["import", "openai", "{folder}/chat.jsonl", *MOVED]]
ASKED += [["import", origin, f"{{folder}}/{origin}.yaml", *MOVED] for origin in CONFIGURATIONS]
PROVE, CHECK = ["audit", "prove"], ["audit", "check"]
LONG = {  # what trains, serves or asks a server; their tables are tested where they are made
    *("run", "try", "ui", "bakeoff", "sweep", "schema", "register", "audit replay", "audit crossings"),
    "audit forget-identities",
    *("canaries plant", "trust countersign", "trust proof", "trust sign", "trust unsigned", "trust witness"),
    *("erase approve", "erase hold", "erase purge"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With the kept project and a backup of its keys in it, for all commands in turn."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = tmp_path_factory.mktemp("width")
        project = copied_project(made, monkeypatch)
        write_yaml(project / "policy.yaml", POLICY)
        chats = [json.dumps(chat(number)) for number in range(60)]
        (made / "chat.jsonl").write_text("\n".join(chats), "utf-8")
        (made / "row.jsonl").write_text(ROW, "utf-8")
        (made / "row.txt").write_text("the account of the north", "utf-8")
        (made / "dataset_info.json").write_text(json.dumps({"chat": CHAT_ROWS}), "utf-8")
        for origin, content in CONFIGURATIONS.items():
            write_yaml(
                made / f"{origin}.yaml", json.loads(json.dumps(content).replace("{folder}", str(made)))
            )
        for words in (["index"], ["key", "backup", f"{made}/keys.json"]):
            assert CliRunner().invoke(app, ["--project", str(project), "audit", *words]).exit_code == 0
        yield made


def in_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common.out, "_width", WIDTH)
    monkeypatch.setattr(common.out, "_force_terminal", True)
    monkeypatch.setattr(common.out, "no_color", True)


@pytest.mark.parametrize("words", mostly_long(ASKED, every=2), ids=lambda words: " ".join(words)[:40])
def test_no_command_cuts_what_it_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    in_terminal(monkeypatch)
    uncut(folder / "project", *(word.replace("{folder}", str(folder)) for word in words))


def test_a_proof_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = History(tmp_path / "project")
    mixture = made.mixture("acme.one", made.dataset("acme.one", [question(number) for number in range(30)]))
    made.release("acme.one", made.model("acme.one", mixture, made.base()), made.base())
    in_terminal(monkeypatch)
    uncut(made.folder, *PROVE, json.dumps(question(3)), "acme.one", "--to", str(tmp_path / "proof"))
    uncut(made.folder, *CHECK, str(tmp_path / "proof"), code=1)  # without the key it shows no absence


def test_what_crosses_tenants_is_not_cut(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_terminal(monkeypatch)
    uncut(folder / "project", "audit", "crossings", code=1)  # the kept project is older than record trees


def uncut(project: Path, *words: str, code: int = 0) -> None:
    """Run a command to its end, and look at what it said."""
    done = CliRunner().invoke(app, ["--project", str(project), *words], catch_exceptions=False)
    assert done.exit_code == code, done.output
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.output)
    assert "…" not in said
    assert [line for line in said.splitlines() if LINES.search(line) and len(line) > WIDTH] == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("training.per_device_train_batch_size", ["training.per_", "device_train_", "batch_size"]),
        ("-1.029 to -0.484 nats", ["-1.029 to", "-0.484 nats"]),
        ("what was measured holds", ["what was", "measured holds"]),
        ("0123456789abcdef", ["0123456789abcd", "ef"]),
    ],
)
def test_a_cell_is_broken_between_words_and_behind_signs(text: str, lines: list[str]) -> None:
    console = Console(width=14, file=io.StringIO(), record=True)
    console.print(Cell(text))
    assert console.export_text().splitlines() == lines


def test_a_table_that_is_too_wide_keeps_every_word_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its words fill the line but for the padding."""
    in_terminal(monkeypatch)
    words = ["training", "production", "undecided", "0123456789ab", "trained", "exports", "wide"]
    with common.out.capture() as captured:
        common.show_rows(words, [[*words[1:], " ".join(["sentence"] * 9)], words])
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert {*words, "sentence"} <= {word for line in lines for word in line.split()}


def test_no_word_of_a_table_is_cut(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_terminal(monkeypatch)
    arguments = ["--project", str(folder / "project"), "show", PLACES]
    output = re.sub(r"\x1b\[[0-9;]*m", "", CliRunner().invoke(app, arguments).output)
    words = {word for line in output.splitlines() for word in re.findall(r"[a-z]+", line)}
    assert {"coverage", "accumulation", "decontaminate", "scheduler"} - words == set()


def paths(command: Any, name: str = "") -> Iterator[str]:
    """ "store du" of each command."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name
        return
    for each, child in below.items():
        yield from paths(child, f"{name} {each}".strip())


def test_all_commands_are_tried() -> None:
    every = set(paths(all_commands()))
    asked = [f"{' '.join(words)} " for words in (*ASKED, PROVE, CHECK)]
    tried = {name for name in every if any(words.startswith(f"{name} ") for words in asked)}
    assert every - tried == LONG


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What each command and group says to --help."""
    every = ("", *sorted(paths(all_commands())), "store", "audit", "audit key", "fleet")
    terminal = CliRunner(env={"COLUMNS": str(WIDTH)})
    return {words: terminal.invoke(app, [*words.split(), "--help"]).output for words in every}


def test_no_help_cuts_what_it_says(helps: dict[str, str]) -> None:
    for words, said in helps.items():
        assert "…" not in said, words
        assert max(map(len, said.splitlines())) <= WIDTH, words


def test_no_help_breaks_a_word_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands between spaces at 80 columns does so in a terminal as wide as one likes."""

    def words_of(command: list[str], width: int) -> set[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        lines = CliRunner().invoke(app, [*command, "--help"]).output.splitlines()
        return {word for line in lines for word in LINES.sub(" ", line).split()}

    for command in ([], *(name.split() for name in sorted(paths(all_commands()))), ["audit"], ["fleet"]):
        assert words_of(command, WIDTH) <= words_of(command, 1000), command


def test_every_help_breaks_its_lines_at_the_terminals_width_alone(helps: dict[str, str]) -> None:
    """A line ends where the next word does not fit, not where the source's line ended."""
    for words, said in helps.items():
        for line, following in pairwise(map(_prose, said.splitlines())):
            if line and following:
                assert len(line) + 1 + len(following.split()[0]) > WIDTH - 2, (words, line, following)


def _prose(line: str) -> str:
    """Return a line of a paragraph; nothing of a usage, a list or a box."""
    return "" if LINES.search(line) or line.startswith(" Usage") else line.strip()
