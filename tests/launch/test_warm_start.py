"""Programs forked from a server find what a started one finds, and no trouble of the server is theirs."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ft_dagster.launch.local import make_ready, run_program
from ft_dagster.launch.processes import carriers
from ft_dagster.launch.warm import choice, client, imports, wire, world
from tests.launch.helpers import Start, declare, lives, pid_in, run, wait_until
from tests.long import mostly_long
from tests.present import present

pytestmark = pytest.mark.slow

A_THREAD = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
SECRET = "AKIA-this-is-secret"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Of this test's own servers, all of which are gone in the end."""
    folder = tmp_path / "warm"
    monkeypatch.setenv(choice.FOLDER, str(folder))
    yield folder
    for server in servers(folder):  # it looks every two seconds only whether it is still asked for
        with suppress(psutil.NoSuchProcess):
            server.kill()
    wait_until(lambda: not servers(folder))


@pytest.fixture(autouse=True)
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO", "ft_dagster.launch")
    return caplog


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for mine.py, which servers import."""
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mine"), prepend=os.pathsep)
    monkeypatch.setenv(choice.IMPORTS, '["mine"]')
    return tmp_path / "mine"


def servers(folder: Path) -> list[psutil.Process]:
    """Those whose sockets are there, not their forks."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if "ft_dagster.launch.warm.server" in command and str(folder) in command:
            found.append(process)
    return found


def probe(run_dir: Path, **options: Any) -> dict[str, Any]:
    assert run_program("probe", run_dir, **options) == 0
    return json.loads((run_dir / "seen.json").read_text())


def pids(run_dir: Path) -> list[int]:
    """Of the program that ran last, its supervisor, and that one's parent."""
    return json.loads((run_dir / "pids.json").read_text())


def starts_plainly(run_dir: Path, said: pytest.LogCaptureFixture, why: str, **options: Any) -> None:
    said.clear()
    probe(run_dir, **options)
    assert pids(run_dir)[2] == os.getpid()
    assert "plain start" in said.text
    assert why in said.text


def test_one_server_forks_the_supervisors_which_fork_the_programs(run_dir: Path, folder: Path) -> None:
    found = []
    for _ in range(3):
        probe(run_dir)
        found.append(pids(run_dir))
    (server,) = servers(folder)
    assert {parent for _, _, parent in found} == {server.pid}
    assert len({program for program, _, _ in found}) == 3


def test_a_server_that_was_made_ready_serves_what_is_started_after(run_dir: Path, folder: Path) -> None:
    make_ready()
    (server,) = servers(folder)
    probe(run_dir)
    assert pids(run_dir)[2] == server.pid
    make_ready({choice.START: "off", choice.FOLDER: str(folder / "none")})
    assert not (folder / "none").exists()


@pytest.mark.parametrize("ignored", [False, True])
def test_a_forked_program_finds_what_a_started_one_finds(
    run_dir: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignored: bool
) -> None:
    """Also where its launcher ignores SIGINT, and where it is unlike the one that started the server."""
    probe(run_dir)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    cores, mask, limits = os.sched_getaffinity(0), os.umask(0o027), resource.getrlimit(resource.RLIMIT_CORE)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        os.sched_setaffinity(0, {min(cores)})
        resource.setrlimit(resource.RLIMIT_CORE, (0, limits[1]))
        environment = {"AWS_SECRET_ACCESS_KEY": SECRET, "NOTE": "two words\nand \udcff a line"}
        forked = probe(run_dir, environment=environment, marker="test-finds")
        from_server = pids(run_dir)[2] == servers(folder)[0].pid
        started = probe(run_dir, environment={**environment, choice.START: "off"}, marker="test-finds")
    finally:
        os.sched_setaffinity(0, cores)
        os.umask(mask)
        resource.setrlimit(resource.RLIMIT_CORE, limits)
        signal.signal(signal.SIGINT, handler)
    assert from_server
    assert forked["environment"]["NOTE"] == environment["NOTE"]
    for seen in (forked, started):
        for kind in ("environment", "shown_environment"):
            for name in ("FT_DAGSTER_SUPERVISOR", choice.START, "FT_DAGSTER_ROOM"):
                seen[kind].pop(name, None)
    shown = forked.pop("shown_environment")  # the server's own variables are before the program's
    assert started.pop("shown_environment").items() <= shown.items()
    assert forked == started


def test_the_server_never_has_the_environment_of_a_program(run_dir: Path, folder: Path) -> None:
    probe(run_dir, environment={"AWS_SECRET_ACCESS_KEY": SECRET, "HF_TOKEN": SECRET})
    (server,) = servers(folder)
    assert SECRET not in str(server.environ())
    with Path(f"/proc/{server.pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{server.pid}/maps").read_text().splitlines():
            area, rights, *_ = line.split()
            if "rw" in rights:
                start, end = (int(part, 16) for part in area.split("-"))
                memory.seek(start)
                assert SECRET.encode() not in memory.read(end - start), line


def test_its_servers_are_told_apart_by_what_libraries_read_when_they_are_loaded() -> None:
    base = {"PATH": "/bin", "FT_DAGSTER_LEASE": "1", "OMP_NUM_THREADS": "2", "HF_TOKEN": "t"}
    same = {**base, "FT_DAGSTER_LEASE": "2", "OMP_NUM_THREADS": "4", "HF_TOKEN": "u", "DAGSTER_HOME": "/d"}
    lease = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "MKL_NUM_THREADS": "4"}
    assert world.identity(base, ()) == world.identity(same, ()) == world.identity({**same, **lease}, ())
    for other in (
        {"PATH": "/sbin"},
        {"PYTHONHASHSEED": "0"},
        {"LD_PRELOAD": "x"},
        {"MKL_CBWR": "COMPATIBLE"},
        {"KMP_INIT_AT_FORK": "TRUE"},
        {"MKL_NUM_THREADS": "1"},
    ):
        assert world.identity(base, ()) != world.identity({**base, **other}, ())
    assert world.identity(base, ()) != world.identity(base, ("numpy",))


def test_a_program_lives_on_when_the_server_is_killed(run_dir: Path, folder: Path) -> None:
    def kill_server() -> None:
        pid_in(run_dir / "pid")
        servers(folder)[0].kill()
        wait_until(lambda: not servers(folder))
        os.kill(pid_in(run_dir / "pid"), signal.SIGTERM)

    threading.Thread(target=kill_server, daemon=True).start()
    assert run(declare(run_dir, wait=True, on={"SIGTERM": 9})) == 9
    probe(run_dir)
    assert pids(run_dir)[2] == servers(folder)[0].pid  # of a new one


def test_nothing_is_left_when_server_and_launcher_are_killed(
    run_dir: Path, folder: Path, start: Start
) -> None:
    launcher = start("launcher.py", declare(run_dir, family=True, wait=True), 0.3)
    program, grandchild = pid_in(run_dir / "pid"), pid_in(run_dir / "grandchild")
    supervisor = psutil.Process(program).ppid()
    assert psutil.Process(supervisor).ppid() == servers(folder)[0].pid
    servers(folder)[0].kill()
    launcher.kill()
    wait_until(lambda: not any(lives(pid) for pid in (program, grandchild, supervisor)))


def test_what_is_left_of_a_killed_supervisor_and_server_is_found_and_ended(
    run_dir: Path, folder: Path
) -> None:
    def kill_both() -> None:
        supervisor = present(psutil.Process(pid_in(run_dir / "pid")).parent())
        pid_in(run_dir / "grandchild")
        servers(folder)[0].kill()
        supervisor.kill()

    threading.Thread(target=kill_both, daemon=True).start()
    assert run(declare(run_dir, family=True, wait=True), marker=f"test-{run_dir}") == 137
    assert carriers(f"test-{run_dir}") == []
    assert not lives(pid_in(run_dir / "pid"))
    assert not lives(pid_in(run_dir / "grandchild"))


def test_a_preempted_supervisor_lets_its_program_end_with_its_own_code(run_dir: Path, folder: Path) -> None:
    def preempt() -> None:
        present(psutil.Process(pid_in(run_dir / "pid")).parent()).terminate()

    threading.Thread(target=preempt, daemon=True).start()
    assert run(declare(run_dir, wait=True, on={"SIGTERM": 75, "SIGINT": 1}), grace=30) == 75
    assert servers(folder)


def test_it_ends_when_nobody_asks_and_leaves_only_an_empty_folder(
    run_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(choice.IDLE, "0.5")
    probe(run_dir)
    wait_until(lambda: not servers(folder))
    assert list(folder.iterdir()) == []


@pytest.mark.long
def test_it_does_not_end_while_a_program_runs(
    run_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(choice.IDLE, "0.5")
    ended = threading.Thread(target=run, args=(declare(run_dir, wait=True, on={"SIGTERM": 0}),))
    ended.start()
    program = pid_in(run_dir / "pid")
    ended.join(4)
    assert servers(folder)
    os.kill(program, signal.SIGTERM)
    ended.join(30)


def test_launchers_that_come_at_once_are_served_by_one(tmp_path: Path, folder: Path, start: Start) -> None:
    launchers = []
    for number in range(4):
        run_dir = tmp_path / f"run-{number}"
        run_dir.mkdir()
        launchers.append((run_dir, start("launcher.py", declare(run_dir, wait=True, on={"SIGTERM": 0}), 1)))
    programs = [pid_in(run_dir / "pid") for run_dir, _ in launchers]
    (server,) = servers(folder)
    assert {present(psutil.Process(program).parent()).ppid() for program in programs} == {server.pid}
    for program in programs:
        os.kill(program, signal.SIGTERM)
    assert [launcher.wait(30) for _, launcher in launchers] == [0] * 4


@pytest.mark.parametrize("size", mostly_long([50_000, 120_000], [120_000]))
def test_a_large_environment_arrives_and_the_program_is_still_found(
    run_dir: Path, folder: Path, size: int
) -> None:
    large = {f"LARGE_{number}": str(number) * size for number in range(3)}
    seen = probe(run_dir, environment=large, marker=f"large-{size}")
    assert {name: seen["environment"][name] for name in large} == large
    assert seen["shown_environment"]["FT_DAGSTER_RUN"] == f"large-{size}"
    assert servers(folder)


def test_a_server_is_replaced_when_what_it_imported_changes_on_disk(
    run_dir: Path, folder: Path, mine: Path
) -> None:
    (mine / "mine.py").write_text("")
    probe(run_dir)
    first = pids(run_dir)[2]
    (mine / "mine.py").write_text("changed = True\n")
    probe(run_dir)
    second = pids(run_dir)[2]
    wait_until(lambda: [server.pid for server in servers(folder)] == [second])
    assert first != second


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (A_THREAD, "threads"),
        ("kept = open('/etc/hostname')", "keeps files open"),
        ("raise RuntimeError('no such luck')", "no such luck"),
    ],
)
def test_a_library_that_does_not_suit_a_fork_leads_to_a_plain_start_at_once(
    run_dir: Path, folder: Path, mine: Path, said: pytest.LogCaptureFixture, *, content: str, why: str
) -> None:
    (mine / "mine.py").write_text(content)
    starts_plainly(run_dir, said, "plain start")
    wait_until(lambda: not servers(folder))
    starts_plainly(run_dir, said, why)
    assert not servers(folder)


def test_a_library_that_is_not_installed_is_left_out(
    run_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(choice.IMPORTS, '["no_such_library"]')
    probe(run_dir)
    assert pids(run_dir)[2] == servers(folder)[0].pid


def test_a_server_that_does_not_answer_is_replaced_by_the_next_launcher(
    run_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    probe(run_dir)
    (server,) = servers(folder)
    server.suspend()
    monkeypatch.setattr(client, "WARM_PATIENCE", 0.3)
    starts_plainly(run_dir, said, "stuck")
    monkeypatch.setattr(client, "WARM_PATIENCE", 10)
    probe(run_dir)
    assert pids(run_dir)[2] not in (server.pid, os.getpid())
    server.resume()
    wait_until(lambda: server.pid not in [left.pid for left in servers(folder)])


def test_a_launcher_that_goes_away_before_its_program_starts_costs_nothing(
    run_dir: Path, folder: Path
) -> None:
    probe(run_dir)
    (server,), (address,) = servers(folder), folder.glob("*.sock")
    directory = wire.open_folder(folder)
    for word in (b"", b"no json", b"[]", b'{"identity": "another"}'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(wire.address(directory, address.name))
            if word:
                connection.send(word)
    os.close(directory)
    wait_until(lambda: not server.children())
    probe(run_dir)
    assert pids(run_dir)[2] == server.pid


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_folder_that_others_may_enter_is_not_trusted(
    run_dir: Path, folder: Path, said: pytest.LogCaptureFixture, mode: int
) -> None:
    folder.mkdir()
    folder.chmod(mode)
    starts_plainly(run_dir, said, "not this user's alone")


def test_a_link_in_place_of_the_folder_is_not_followed(
    run_dir: Path, folder: Path, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "other").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "other")
    starts_plainly(run_dir, said, "plain start")
    folder.unlink()


def test_a_count_of_threads_that_is_none_is_left_to_the_libraries(
    run_dir: Path, folder: Path, said: pytest.LogCaptureFixture
) -> None:
    starts_plainly(run_dir, said, "ValueError", environment={"OMP_NUM_THREADS": "2,1"})


def test_it_can_be_switched_off(run_dir: Path, folder: Path) -> None:
    probe(run_dir, environment={choice.START: "off"})
    assert pids(run_dir)[2] == os.getpid()
    assert not folder.exists()


def test_a_program_can_begin_again_as_a_plain_start_under_the_same_supervisor(
    run_dir: Path, folder: Path
) -> None:
    assert run_program("again", run_dir, marker="test-again") == 7
    (first, was_forked, marker), second = map(json.loads, (run_dir / "starts.jsonl").read_text().splitlines())
    assert was_forked
    assert second == [first, False, marker]


def test_with_a_gpu_nothing_is_imported_that_asks_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "has_gpu", lambda: True)
    chosen = imports.chosen(None)
    assert "torch" in chosen
    assert not {"bitsandbytes", "deepspeed", "accelerate", "peft"} & {name.split(".")[0] for name in chosen}
    monkeypatch.setitem(sys.modules, "bitsandbytes", imports)
    monkeypatch.setattr(os, "listdir", lambda folder: ["1"] if "task" in folder else [])
    with pytest.raises(imports.CannotServe, match="bitsandbytes"):
        imports.require_forkable()
