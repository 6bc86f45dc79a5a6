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

from ft_dagster.automation.forked_runs import ASKED, NOW, ONCE_NEEDED, fork_runs
from ft_dagster.automation.processes import daemon_program
from ft_dagster.automation.processes.daemon_program import CodeServer
from ft_dagster.automation.processes.instance import workspace_file, write_home
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

    def last_words(self) -> str:
        """What it and its runs said on stderr, once it has come to its end."""
        return self.process.communicate()[1]


@pytest.fixture
def server() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(*arguments: str) -> Server:
        made.append(Server(*arguments))
        return made[-1]

    yield start
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
            each.process.communicate()


def forks(pid: int) -> bool:
    return "multiprocessing.forkserver" in " ".join(psutil.Process(pid).cmdline())


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.long
@pytest.mark.parametrize("threads", ["1", "2", None])
def test_a_run_finds_what_a_spawned_one_finds(
    server: Callable[..., Server], threads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    forking, spawning = server(ONCE_NEEDED), server("")
    assert forking.said == {"forks": True, "asked": False}
    assert spawning.said == {"forks": False, "asked": False}
    forked, spawned = forking.ask("run", "look", 0), spawning.ask("run", "look", 0)
    assert forks(forked["parent"])
    assert spawned["parent"] == spawning.process.pid
    assert {"dagster", "torch", "peft", "transformers"} <= set(forked["modules"])
    assert "torch" not in spawned["modules"]
    for name in ("environment", "torch", "offline"):
        assert forked[name] == spawned[name]
    assert not forked["offline"]
    assert set(map(tuple, spawned["threads"])) <= set(map(tuple, forked["threads"]))
    assert forked["group"] == os.getpgid(forking.process.pid)
    assert spawned["group"] == os.getpgid(spawning.process.pid)
    assert forking.ask("run", "look", 0)["random"] != forked["random"]
    assert forking.ask("end") == spawning.ask("end") == {"code": 0}


def test_what_runs_are_forked_from_is_started_before_them_where_they_follow(
    server: Callable[..., Server],
) -> None:
    early, late = server(NOW, NOTHING), server(ONCE_NEEDED, NOTHING)
    assert any(forks(child.pid) for child in psutil.Process(early.process.pid).children())
    assert not any(forks(child.pid) for child in psutil.Process(late.process.pid).children())
    assert forks(early.ask("run", "", 0)["parent"])


def test_a_code_server_serves_where_nothing_can_be_started_before(
    server: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("long" * 30)  # more than the address of a socket holds
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    each = server(NOW, NOTHING)
    assert each.ask("run", "", 0)["parent"] == each.process.pid
    assert each.ask("end") == {"code": 0}


def test_a_run_ends_as_it_ends(server: Callable[..., Server]) -> None:
    each = server(ONCE_NEEDED, NOTHING)
    each.ask("run", "fail", 0)
    assert each.ask("end") == {"code": 3}
    pid = each.ask("run", "", 60)["pid"]
    assert each.ask("lives") == {"lives": True}
    os.kill(pid, signal.SIGKILL)
    assert each.ask("end") == {"code": -signal.SIGKILL}


@pytest.mark.parametrize("asked", [ONCE_NEEDED, ""])
def test_a_run_does_what_is_to_be_done_at_its_exit(server: Callable[..., Server], asked: str) -> None:
    each = server(asked, NOTHING)
    each.ask("run", "", 0)
    each.ask("end")
    assert each.last_words().count("it ended") == 1


@pytest.mark.parametrize(
    ("name", "broken"), [("OMP_NUM_THREADS", "4,2"), ("OPENBLAS_NUM_THREADS", "0"), ("OMP_NUM_THREADS", "x")]
)
def test_runs_are_spawned_where_their_threads_are_not_known(
    server: Callable[..., Server], name: str, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, broken)
    assert server(ONCE_NEEDED, NOTHING).said == {"forks": False, "asked": False}


def test_runs_are_spawned_where_this_python_cannot_watch_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {ASKED: NOW}
    monkeypatch.delattr(os, "pidfd_open")
    assert not fork_runs(environment)
    assert environment == {}


def test_a_run_outlives_the_process_that_forked_it(server: Callable[..., Server]) -> None:
    each = server(ONCE_NEEDED, NOTHING)
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
    each = server(ONCE_NEEDED, NOTHING)
    run = each.ask("run", "", 2)
    each.process.kill()
    assert not gone(run["pid"])
    wait_until(lambda: gone(run["pid"]) and gone(run["parent"]))


@pytest.mark.long
@pytest.mark.parametrize(
    "broken", ["raise SystemExit('no')", "import os; os.abort()", "import time; time.sleep(5)"]
)
def test_runs_are_spawned_once_each_where_none_can_be_forked(
    server: Callable[..., Server], broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "breaks.py").write_text(broken)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PATIENCE", "1")
    each = server(ONCE_NEEDED, "breaks")
    for _ in range(2):
        assert each.ask("run", "", 0)["parent"] == each.process.pid
    assert each.ask("end") == each.ask("end") == {"code": 0}
    time.sleep(5 if "sleep" in broken else 0)  # until that server would fork what it was asked for
    assert each.last_words().count("it ended") == 2


IMPORTED = "from ft_dagster.automation import forked_imports"


def imported(before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    code = f"import os\n{before}\nwas = dict(os.environ)\n{IMPORTED}\nassert dict(os.environ) == was"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.long
def test_what_runs_are_forked_from_has_one_thread_and_changes_no_environment() -> None:
    done = imported(OMP_NUM_THREADS="2", JE_ARROW_MALLOC_CONF="dirty_decay_ms:0")
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_nothing_is_forked_from_a_process_with_threads() -> None:
    thread = "import threading, time; threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()"
    done = imported(thread)
    assert done.returncode == 1
    assert "runs are not forked: a library started threads" in done.stderr


class Controller:
    """A stand-in of Dagster's: one code server, and how often it was asked for another."""

    def __init__(self, process: subprocess.Popen[bytes] | None) -> None:
        entry = SimpleNamespace(creation_timestamp=time.time())
        if process is not None:
            entry.process = SimpleNamespace(server_process=process)
        self.entry = entry
        self._grpc_server_registry = SimpleNamespace(_active_entries={"it": entry})
        self.asked: list[str | None] = []
        self.works = True

    def check_workspace_freshness(self, before: float) -> float:
        assert time.time() - before > 60  # else Dagster does nothing
        self.asked.append(os.environ.get(ASKED))
        return time.time() if self.works else before


@pytest.fixture
def running() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def code(project: Path, monkeypatch: pytest.MonkeyPatch) -> CodeServer:
    """Of a daemon in that project, whose minutes are over at once."""
    monkeypatch.setattr(daemon_program, "RELOAD_SECONDS", -1)
    monkeypatch.setenv(ASKED, "")
    (project / "ft_dagster").mkdir()
    (project / "ft_dagster" / "__init__.py").touch()
    monkeypatch.setattr("ft_dagster.__file__", str(project / "ft_dagster" / "__init__.py"))
    settings = load_settings(project)
    write_home(settings)
    return CodeServer(settings)


def times_asked(code: CodeServer, controller: Controller) -> int:
    before = len(controller.asked)
    code._fresh = time.time() - 100
    code.keep_fresh(cast("DagsterDaemonController", controller))
    return len(controller.asked) - before


@pytest.mark.parametrize(
    "changed", ["ft_dagster.yaml", ".env", "ft_dagster/new.py", "ft_dagster/__init__.py"]
)
def test_a_code_server_is_replaced_once_what_it_read_has_changed(
    code: CodeServer, project: Path, running: subprocess.Popen[bytes], changed: str
) -> None:
    controller = Controller(running)
    assert times_asked(code, controller) == 0
    (project / changed).write_text("# new\n")
    controller.works = False
    assert times_asked(code, controller) == 1
    controller.works = True
    assert times_asked(code, controller) == 1  # again, since that came to nothing
    assert times_asked(code, controller) == 0


def test_a_code_server_is_replaced_where_it_has_ended_or_is_old(
    code: CodeServer, running: subprocess.Popen[bytes]
) -> None:
    controller = Controller(running)
    controller.entry.creation_timestamp -= daemon_program.SERVER_SECONDS + 1
    assert times_asked(code, controller) == 1
    controller.entry.creation_timestamp = time.time()
    assert times_asked(code, controller) == 0
    running.kill()
    running.wait()
    assert times_asked(code, controller) == 1
    assert times_asked(code, Controller(None)) == 1  # one that could not be started


def test_a_server_of_others_code_is_replaced_each_minute_and_forks_nothing(
    code: CodeServer, project: Path, running: subprocess.Popen[bytes]
) -> None:
    controller = Controller(running)
    assert os.environ[ASKED] == ONCE_NEEDED
    CodeServer(load_settings(project), runs_follow=True)
    assert os.environ[ASKED] == NOW
    file = workspace_file(load_settings(project))
    content = yaml.safe_load(file.read_text())
    content["load_from"].append({"python_module": {"module_name": "theirs"}})
    file.write_text(yaml.safe_dump(content))
    assert times_asked(code, controller) == times_asked(code, controller) == 1
    assert controller.asked == [None, None]


def test_a_server_forks_as_the_settings_say_when_it_is_started(
    code: CodeServer, project: Path, running: subprocess.Popen[bytes]
) -> None:
    controller = Controller(running)
    for said in ("{warm_start: off}", "{warm_start: auto}", "broken"):
        (project / "ft_dagster.yaml").write_text(f"host: {said}\n")
        assert times_asked(code, controller) == 1
    assert controller.asked == [None, ONCE_NEEDED, ONCE_NEEDED]
