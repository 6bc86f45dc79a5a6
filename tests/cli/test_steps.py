"""A command that takes long says on stderr what it is doing; a quick one says nothing."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from ft_dagster.cli import steps
from ft_dagster.cli.steps import steps_said

IN_COPIES = """
import os, select
from ft_dagster.cli import steps
from ft_dagster.planning.parallel import in_own_process
steps.QUICK_SECONDS = 0.2
def work():
    say("reads rows")
    wait()
def wait():
    # as long as it takes until the step is said: the reader of stderr then closes stdin
    select.select([0], [], [])
with steps.steps_said(False) as say:
    in_own_process(work)
"""


def test_a_step_is_said_at_once_where_the_command_is_no_longer_quick(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steps, "QUICK_SECONDS", 0.0)
    with steps_said(False) as say:
        say("reads rows of\na file")
        say("dry run of lora, method 1 of 6")
    assert re.findall(r"^ *\d+ s  (.*)$", capsys.readouterr().err, re.MULTILINE) == [
        "reads rows of\\na file",
        "dry run of lora, method 1 of 6",
    ]


@pytest.mark.parametrize(("silent", "quick"), [(True, 0.0), (False, 1e6)])
def test_nothing_is_said_with_json_or_of_a_quick_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], silent: bool, quick: float
) -> None:
    monkeypatch.setattr(steps, "QUICK_SECONDS", quick)
    with steps_said(silent) as say:
        say("reads rows")
    assert capsys.readouterr().err == ""


def test_a_long_first_step_is_said_while_it_goes_on_in_a_copy_of_the_process() -> None:
    command = [sys.executable, "-c", IN_COPIES]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        line = process.stderr.readline()
        process.stdin.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
    assert line.endswith(" s  reads rows\n")
