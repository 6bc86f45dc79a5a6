"""Runs are forked as they would be spawned: found, ended and missed alike, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
import yaml
from dagster._daemon.controller import DagsterDaemonController

from ft_dagster.automation.daemon_program import CodeServer
from ft_dagster.automation.instance import workspace_file, write_home
from ft_dagster.settings import load_settings
from tests.launch.helpers import wait_until

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).parent / "programs" / "code_server.py"
NOTHING = "json"  # a module that imports next to nothing


class Server:
    """A stand-in of Dagster's code server, in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.said = self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return dict(json.loads(line))

    def ask(self, *what: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self.answer()


@pytest.fixture
def server() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(*arguments: str) -> Server:
        made.append(Server(*arguments))
        return made[-1]

    yield start
    for each in made:
        each.process.kill()
        each.process.communicate()


def forks(pid: int) -> bool:
    return "multiprocessing.forkserver" in " ".join(psutil.Process(pid).cmdline())


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_run_finds_what_a_spawned_one_finds(server: Callable[..., Server]) -> None:
    forking, spawning = server("1"), server("0")
    assert forking.said == {"forks": True, "asked": False}
    assert spawning.said == {"forks": False, "asked": False}
    forked, spawned = forking.ask("run", "", 0), spawning.ask("run", "", 0)
    assert forks(forked["parent"])
    assert spawned["parent"] == spawning.process.pid
    assert {"dagster", "torch", "peft"} <= set(forked["modules"])
    assert spawned["modules"] == []
    assert forked["environment"] == spawned["environment"]
    assert forked["group"] == os.getpgid(forking.process.pid) == spawned["group"]
    assert forking.ask("run", "", 0)["random"] != forked["random"]
    assert forking.ask("end") == {"code": 0}


def test_a_run_ends_as_it_ends(server: Callable[..., Server]) -> None:
    each = server("1", NOTHING)
    each.ask("run", "fail", 0)
    assert each.ask("end") == {"code": 3}
    pid = each.ask("run", "", 60)["pid"]
    assert each.ask("lives") == {"lives": True}
    os.kill(pid, signal.SIGKILL)
    assert each.ask("end") == {"code": -signal.SIGKILL}


def test_a_run_outlives_the_process_that_forked_it(server: Callable[..., Server]) -> None:
    each = server("1", NOTHING)
    first = each.ask("run", "", 3)
    os.kill(first["parent"], signal.SIGKILL)
    wait_until(lambda: gone(first["parent"]))
    assert each.ask("lives") == {"lives": True}
    second = each.ask("run", "", 0)
    assert forks(second["parent"])
    assert second["parent"] != first["parent"]
    began = time.monotonic()
    each.ask("end")
    assert gone(first["pid"])
    assert time.monotonic() - began < 30
    assert each.ask("end") == {"code": 0}


def test_a_run_outlives_the_code_server_and_then_nothing_is_left(server: Callable[..., Server]) -> None:
    each = server("1", NOTHING)
    run = each.ask("run", "", 2)
    each.process.kill()
    assert not gone(run["pid"])
    wait_until(lambda: gone(run["pid"]) and gone(run["parent"]))


@pytest.mark.parametrize("broken", ["raise SystemExit('no')", "import os; os.abort()"])
def test_runs_are_spawned_where_none_can_be_forked(
    server: Callable[..., Server], broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "breaks.py").write_text(broken)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    each = server("1", "breaks")
    for _ in range(2):
        assert each.ask("run", "", 0)["parent"] == each.process.pid
    assert each.ask("end") == {"code": 0}


IMPORTED = "from ft_dagster.automation import forked_imports"


def imported(before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    code = f"import os\n{before}\nwas = dict(os.environ)\n{IMPORTED}\nassert dict(os.environ) == was"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_what_runs_are_forked_from_has_one_thread_and_changes_no_environment() -> None:
    done = imported(OMP_NUM_THREADS="2", JE_ARROW_MALLOC_CONF="dirty_decay_ms:0")
    assert done.returncode == 0, done.stderr


def test_nothing_is_forked_from_a_process_with_threads() -> None:
    thread = "import threading, time; threading.Thread(target=time.sleep, args=(30,), daemon=True).start()"
    done = imported(thread)
    assert done.returncode == 1
    assert "runs are not forked: a library started threads" in done.stderr


def controller(server: Any) -> DagsterDaemonController:
    registry = SimpleNamespace(_active_entries={"it": server})
    return cast("DagsterDaemonController", SimpleNamespace(_grpc_server_registry=registry))


@pytest.fixture
def running() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_a_code_server_is_outdated_once_settings_change_or_it_ends(
    project: Path, running: subprocess.Popen[bytes]
) -> None:
    settings = load_settings(project)
    write_home(settings)
    entry = SimpleNamespace(process=SimpleNamespace(server_process=running))
    code = CodeServer(settings, controller(entry))
    assert not code.is_outdated()
    (project / "ft_dagster.yaml").write_text("store: elsewhere\n")
    assert code.is_outdated()
    assert not code.is_outdated()
    running.kill()
    running.wait()
    assert code.is_outdated()
    assert CodeServer(settings, controller(SimpleNamespace(error="it does not load"))).is_outdated()


def test_a_workspace_with_code_of_others_is_always_outdated(
    project: Path, running: subprocess.Popen[bytes]
) -> None:
    settings = load_settings(project)
    write_home(settings)
    file = workspace_file(settings)
    content = yaml.safe_load(file.read_text())
    content["load_from"].append({"python_module": {"module_name": "theirs"}})
    file.write_text(yaml.safe_dump(content))
    entry = SimpleNamespace(process=SimpleNamespace(server_process=running))
    assert CodeServer(settings, controller(entry)).is_outdated()
