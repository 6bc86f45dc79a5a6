"""The program as a shell has it: in a terminal with and without colours, piped, and completing words."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.long import mostly_long

pytestmark = pytest.mark.slow

PROGRAM = Path(sys.executable).with_name("ft-dagster")
COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-7]|9[0-7]|38;[0-9;]+)m")
OTHER = {"NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TERM", "COLUMNS"}  # what an outer shell may have set


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("acme/support", "acme/sales", "zoo/keeper"):
        file = tmp_path / "tenants" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("description: d\nunknown: 1\n")
    return tmp_path


def environment(project: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in OTHER}
    return {**kept, "FT_DAGSTER_PROJECT": str(project), "TERM": "xterm-256color", **more}


def in_terminal(project: Path, *words: str, **more: str) -> str:
    """What a terminal of 80 columns receives."""
    ours, theirs = pty.openpty()
    said = b""
    with subprocess.Popen(
        [PROGRAM, *words],
        env=environment(project, COLUMNS="80", **more),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        while part := _read(ours):
            said += part
    os.close(ours)
    return said.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # its other end was closed
        return b""


def test_a_terminal_has_colours_and_none_with_no_color(project: Path) -> None:
    assert COLOUR.search(in_terminal(project, "status"))
    plain = in_terminal(project, "status", NO_COLOR="1")
    assert "broken" in plain
    assert not COLOUR.search(plain)


@pytest.mark.parametrize("words", mostly_long([["status"], ["--help"], ["compare", "nobody"]], every=3))
def test_what_is_piped_has_no_escape(project: Path, words: list[str]) -> None:
    done = subprocess.run([PROGRAM, *words], check=False, env=environment(project), capture_output=True)
    said = done.stdout + done.stderr
    assert said
    assert b"\x1b" not in said


@pytest.mark.parametrize(
    ("typed", "completed"),
    mostly_long(
        [
            ("ft-dagster rep", {"report"}),
            ("ft-dagster report --ag", {"--against"}),
            ("ft-dagster compare acme.", {"acme.sales", "acme.support"}),
            ("ft-dagster report zoo", {"zoo.keeper"}),
            ("ft-dagster audit model acme.s", {"acme.sales", "acme.support"}),
            ("ft-dagster audit at zoo", {"zoo.keeper"}),
            ("ft-dagster audit tenant a", {"acme"}),
            ("ft-dagster audit record text --tenant a", {"acme"}),
            ("ft-dagster audit key rotate z", {"zoo"}),
        ],
        every=4,
    ),
)
def test_a_shell_completes_commands_options_and_variants(
    project: Path, typed: str, completed: set[str]
) -> None:
    asked = {
        "_FT_DAGSTER_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    completing = environment(project, **asked)
    done = subprocess.run([PROGRAM], check=False, env=completing, capture_output=True, text=True)
    assert set(done.stdout.split()) == completed
