"""`ft-dagster run` and `ui` are killed, or their terminal is closed: runs end, then the daemon.

Processes are told apart by the Dagster home in their environment.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from ft_dagster.automation.processes.daemon import own_daemon
from ft_dagster.automation.processes.instance import opened, write_home
from ft_dagster.exit_codes import CANCELLED
from ft_dagster.settings import load_settings
from ft_dagster.store import read_head
from tests.e2e.project import command_environment, edit, write_project

pytestmark = pytest.mark.slow
FT_DAGSTER = Path(sys.executable).with_name("ft-dagster")
PATIENCE = 240  # seconds for a start on a machine with much else to do
LEFT_SECONDS = 60  # as docs/operations.md says


def wait_until(question: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.2)
    return answer


class Project:
    """A project on the tiny model, its instance and the processes that work on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.settings = folder, load_settings(folder)
        self.environment = command_environment(folder)
        self.home = write_home(self.settings)["DAGSTER_HOME"]

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return subprocess.Popen([FT_DAGSTER, *arguments], env=self.environment, text=True, **pipes)

    def break_sources(self) -> None:
        """Let each run end at its first step, so that a test is about processes alone."""
        (self.folder / "data" / "rows.jsonl").unlink()

    def runs(self) -> list[dg.DagsterRun]:
        with opened(Path(self.home)) as instance:
            return list(instance.get_runs(ascending=True))

    def statuses(self) -> list[dg.DagsterRunStatus]:
        return [run.status for run in self.runs()]

    def submitted(self) -> int:
        """How many runs have come to the queue; a killed command may leave one that has not."""
        return sum(status != dg.DagsterRunStatus.NOT_STARTED for status in self.statuses())

    def processes(self, word: str = "") -> list[psutil.Process]:
        """Living processes of the instance, this one not among them; those with `word` in their command."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                mine = process.environ().get("DAGSTER_HOME") == self.home and process.pid != os.getpid()
                alive = process.status() != psutil.STATUS_ZOMBIE
                if mine and alive and any(word in part for part in process.cmdline()):
                    found.append(process)
        return found

    def daemons(self) -> list[psutil.Process]:
        return self.processes("ft_dagster.automation.processes.daemon_program")

    def assert_nothing_is_left(self) -> None:
        deadline = time.monotonic() + LEFT_SECONDS
        while left := self.processes():
            assert time.monotonic() < deadline, [process.cmdline() for process in left]
            time.sleep(0.5)
        assert own_daemon(self.settings) is None


@pytest.fixture
def project(tmp_path: Path, tiny_model_folder: Path) -> Iterator[Project]:
    made = Project(write_project(tmp_path / "project", tiny_model_folder))
    yield made
    for process in made.processes():
        with suppress(psutil.Error):
            process.kill()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


# A session's leader gets the first terminal that it opens as its own, and is hung up when that is closed.
IN_TERMINAL = "import os, sys; os.open(os.ttyname(0), os.O_RDWR); os.execv(sys.argv[1], sys.argv[1:])"


def in_terminal(project: Project, *arguments: str) -> tuple[subprocess.Popen[bytes], int]:
    """A command in a terminal of its own, and the descriptor whose closing closes that terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL, FT_DAGSTER, *arguments], env=project.environment,
        stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    return process, ours


@pytest.mark.long
def test_a_command_killed_before_its_daemon_is_up_leaves_nothing(project: Project) -> None:
    command = project.start("run", "acme.places")
    wait_until(lambda: own_daemon(project.settings) is not None)
    kill(command)
    project.assert_nothing_is_left()
    assert project.runs() == []


@pytest.mark.long
@pytest.mark.parametrize("end", ["killed", "hung up"])
def test_all_runs_of_a_lost_command_end_and_then_its_daemon(project: Project, end: str) -> None:
    project.break_sources()
    command, terminal = in_terminal(project, "run", "--all")
    wait_until(lambda: project.submitted() == 2)
    if end == "killed":
        command.kill()
    else:
        os.close(terminal)
    assert command.wait(10) in (-signal.SIGKILL, -signal.SIGHUP)
    wait_until(lambda: set(project.statuses()) == {dg.DagsterRunStatus.FAILURE})
    project.assert_nothing_is_left()


@pytest.mark.long
def test_commands_share_a_daemon_that_outlives_the_one_that_started_it(project: Project) -> None:
    project.break_sources()
    first, second = project.start("run", "acme.places"), project.start("run", "globex.places", "--json")
    wait_until(lambda: project.submitted() == 2)
    (daemon,) = project.daemons()
    kill(first)
    said, complained = second.communicate(timeout=PATIENCE)
    assert second.returncode == 1, complained
    assert json.loads(said)["variants"][0]["run_status"] == "FAILURE"
    assert [process.pid for process in project.daemons()] in ([], [daemon.pid])
    project.assert_nothing_is_left()
    assert set(project.statuses()) == {dg.DagsterRunStatus.FAILURE}


@pytest.mark.long
def test_term_ends_a_command_that_was_started_by_nohup_in_the_background(project: Project) -> None:
    edit(project.folder / "tenants/acme/places.yaml", lambda c: c["training"].update(num_train_epochs=60))
    in_background = 'nohup "$@" > /dev/null 2>&1 < /dev/null & echo $!; wait $!; echo $?'
    command: list[str | Path] = ["sh", "-c", in_background, "sh", FT_DAGSTER, "run", "acme.places"]
    with subprocess.Popen(command, env=project.environment, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        wait_until(lambda: project.processes("ft_dagster.training"), 2 * PATIENCE)
        os.kill(pid, signal.SIGTERM)
        assert int(shell.stdout.readline()) == CANCELLED
    assert project.statuses() == [dg.DagsterRunStatus.CANCELED]
    project.assert_nothing_is_left()


@pytest.mark.long
def test_a_killed_ui_leaves_nothing(project: Project) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = project.start("ui", "--port", str(port), **quiet)

    def answers() -> bool:
        assert command.poll() is None
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    wait_until(answers)
    assert len(project.daemons()) == 1
    kill(command)
    project.assert_nothing_is_left()


@pytest.mark.long
def test_a_further_command_follows_the_run_of_a_killed_one(project: Project) -> None:
    edit(project.folder / "tenants/acme/places.yaml", lambda c: c["training"].update(num_train_epochs=60))
    command = project.start("run", "acme.places")
    wait_until(lambda: project.processes("ft_dagster.training"), 2 * PATIENCE)
    kill(command)
    (daemon,) = project.daemons()
    further = project.start("run", "acme.places", "--json")
    said, complained = further.communicate(timeout=3 * PATIENCE)
    assert further.returncode == 0, complained
    assert f"run {project.runs()[0].run_id[:8]} was submitted before" in complained
    assert "acme.places fine_tuned_model" in complained
    (row,) = json.loads(said)["variants"]
    assert (row["run_status"], row["reused"], row["version"]) == ("SUCCESS", True, 1)
    assert project.statuses() == [dg.DagsterRunStatus.SUCCESS] * 2
    assert daemon not in project.daemons()
    project.assert_nothing_is_left()


@pytest.mark.long
def test_where_everything_was_killed_the_next_command_goes_on_by_itself(project: Project) -> None:
    """As after a power cut: Dagster believes that the run is in progress, and nobody says otherwise."""
    edit(project.folder / "tenants/acme/places.yaml", lambda c: c["training"].update(num_train_epochs=60))
    command = project.start("run", "acme.places")
    checkpoints = project.folder / ".ft_dagster/work/runs/acme.places"
    wait_until(
        lambda: list(checkpoints.glob("*/output/checkpoints/checkpoint-*/checkpoint.json")), 3 * PATIENCE
    )
    kill(command)  # first, or it would start another daemon
    while left := project.processes():
        for process in left:
            with suppress(psutil.Error):
                process.kill()
    assert project.statuses() == [dg.DagsterRunStatus.STARTED]
    further = project.start("run", "acme.places", "--json")
    said, complained = further.communicate(timeout=4 * PATIENCE)
    assert further.returncode == 0, complained
    assert json.loads(said)["variants"][0]["run_status"] == "SUCCESS"
    assert project.statuses()[0] == dg.DagsterRunStatus.FAILURE
    model = read_head(project.settings.open_store(), "tenants/acme/places", "fine_tuned_model")
    assert model is not None
    assert model.figures["resumed_from"]
    project.assert_nothing_is_left()
