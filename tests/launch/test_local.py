"""Programs under the supervisor: exit codes, output, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ft_dagster.launch import local
from ft_dagster.launch.leases import Leases
from ft_dagster.launch.local import cancel, classify, run_program, start_program, usual_patience
from ft_dagster.launch.processes import GRACE, carriers
from ft_dagster.training.ranks import torch_patience
from tests.launch.helpers import PROGRAMS, Start, ask, declare, lives, pid_in, run, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def heeds_sigint() -> Iterator[None]:
    """Also where the tests were started with SIGINT ignored, as `nohup` and a shell's `&` leave it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_main_thread_when(file: Path, times: int = 1) -> None:
    """Send this process SIGINT once `file` has content, as Dagster's cancel does."""

    def wait_and_interrupt() -> None:
        pid_in(file)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    threading.Thread(target=wait_and_interrupt, daemon=True).start()


def supervise(run_dir: Path, grace: float = 0.3, **options: Any) -> subprocess.Popen[bytes]:
    """The supervisor itself, with the program as its command."""
    options = {"stdin": subprocess.PIPE, **options}
    supervisor = [sys.executable, "-m", "ft_dagster.launch.supervisor", "--marker", f"test-{run_dir}"]
    limits = ["--grace", str(grace), "--kill-after", "0.3", "--"]
    return subprocess.Popen(
        [*supervisor, *limits, sys.executable, PROGRAMS / "program.py", run_dir], **options
    )


@pytest.mark.parametrize("code", [0, 75])
@pytest.mark.usefixtures("each_start")
def test_the_exit_code_is_the_programs(run_dir: Path, code: int) -> None:
    assert run(declare(run_dir, exit=code)) == code


@pytest.mark.usefixtures("each_start")
def test_a_program_killed_by_a_signal_exits_with_128_and_the_signal(run_dir: Path) -> None:
    assert run(declare(run_dir, kill="SIGKILL")) == 137


@pytest.mark.usefixtures("each_start")
def test_a_module_that_does_not_exist_is_a_failure(run_dir: Path) -> None:
    assert classify(run_program("no_such_module", declare(run_dir))).kind == "failed"


def test_a_command_that_cannot_be_started_exits_with_127() -> None:
    supervisor = [sys.executable, "-m", "ft_dagster.launch.supervisor", "--marker", "test"]
    ended = subprocess.run([*supervisor, "--", "/no/such/command"], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr.count(b"\n")) == (127, 1)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (0, "done"),
        (2, "bad_input"),
        (75, "transient"),
        (130, "cancelled"),
        (137, "transient"),
        (-9, "transient"),
        (143, "transient"),
        (139, "failed"),
        (1, "failed"),
    ],
)
def test_an_exit_code_says_whether_a_retry_can_mend_it(code: int, kind: str) -> None:
    assert classify(code).kind == kind


@pytest.mark.usefixtures("each_start")
def test_five_megabytes_of_output_pass(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(declare(run_dir, megabytes=5)) == 0
    assert len(capfd.readouterr().out) == 5 * 2**20


@pytest.mark.usefixtures("each_start")
def test_output_can_go_to_a_file(run_dir: Path) -> None:
    assert run(declare(run_dir, megabytes=1), output=run_dir / "log.txt") == 0
    assert (run_dir / "log.txt").stat().st_size == 2**20


@pytest.mark.usefixtures("each_start")
def test_the_program_gets_the_lease_and_the_callers_environment(run_dir: Path, leases: Leases) -> None:
    with leases.acquire(ask(2)) as lease:
        run(declare(run_dir), lease=lease, environment={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "64"})
    seen = json.loads((run_dir / "environment.json").read_text())
    assert seen["HF_HUB_OFFLINE"] == "1"
    assert seen["OMP_NUM_THREADS"] == "2"
    assert json.loads(seen["FT_DAGSTER_LEASE"])["token"] == lease.token
    assert seen["FT_DAGSTER_RUN"].startswith("run-")


@pytest.mark.usefixtures("each_start")
@pytest.mark.parametrize("own", [{}, {"GOMP_SPINCOUNT": "7"}])
def test_threads_that_wait_sleep_soon_unless_the_caller_says_otherwise(
    run_dir: Path, own: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    run(declare(run_dir), environment=own)
    seen = json.loads((run_dir / "environment.json").read_text())
    assert seen["GOMP_SPINCOUNT"] == own.get("GOMP_SPINCOUNT", "10000")


@pytest.mark.usefixtures("each_start")
def test_poll_is_called_while_the_program_runs_and_its_error_cancels_it(run_dir: Path) -> None:
    def fail_once_it_runs() -> None:
        if (run_dir / "pid").exists() and (run_dir / "pid").read_text():
            raise RuntimeError("storage is gone")

    with pytest.raises(RuntimeError, match="storage is gone"):
        run(declare(run_dir, wait=True), poll=fail_once_it_runs)
    assert not lives(pid_in(run_dir / "pid"))


@pytest.mark.usefixtures("each_start", "heeds_sigint")
def test_a_process_in_its_own_session_that_ignores_signals_is_ended_on_cancel(run_dir: Path) -> None:
    interrupt_main_thread_when(run_dir / "pid")
    with pytest.raises(KeyboardInterrupt):
        run(declare(run_dir, family=True, wait=True))
    assert not lives(pid_in(run_dir / "grandchild"))
    assert not lives(pid_in(run_dir / "pid"))


@pytest.mark.long
@pytest.mark.usefixtures("each_start", "heeds_sigint")
def test_a_second_interrupt_does_not_leave_processes_behind(run_dir: Path) -> None:
    interrupt_main_thread_when(run_dir / "pid", times=2)
    with pytest.raises(KeyboardInterrupt):
        run(declare(run_dir, family=True, wait=True), grace=1.0)
    assert not lives(pid_in(run_dir / "grandchild"))


@pytest.mark.usefixtures("each_start")
def test_a_program_that_ends_leaves_no_orphan(run_dir: Path) -> None:
    assert run(declare(run_dir, family=True, exit=3)) == 3
    assert not lives(pid_in(run_dir / "grandchild"))


@pytest.mark.usefixtures("each_start")
def test_an_orphan_without_the_marker_in_its_environment_is_ended(run_dir: Path) -> None:
    assert run(declare(run_dir, family="without environment")) == 0
    assert not lives(pid_in(run_dir / "grandchild"))


@pytest.mark.usefixtures("each_start")
def test_when_the_launcher_is_killed_everything_goes(run_dir: Path, start: Start) -> None:
    launcher = start("launcher.py", declare(run_dir, family=True, wait=True), 0.3)
    program, grandchild = pid_in(run_dir / "pid"), pid_in(run_dir / "grandchild")
    supervisor = psutil.Process(program).ppid()
    launcher.kill()
    wait_until(lambda: not any(lives(pid) for pid in (program, grandchild, supervisor)))


@pytest.mark.usefixtures("each_start")
def test_when_the_supervisor_is_killed_the_launcher_ends_the_rest(run_dir: Path) -> None:
    def kill_supervisor() -> None:
        os.kill(psutil.Process(pid_in(run_dir / "pid")).ppid(), signal.SIGKILL)

    threading.Thread(target=kill_supervisor, daemon=True).start()
    assert run(declare(run_dir, family=True, wait=True), marker=f"test-{run_dir}") == 137
    assert carriers(f"test-{run_dir}") == []
    assert not lives(pid_in(run_dir / "grandchild"))


def test_a_supervisor_that_is_stopped_does_not_stop_a_cancel(run_dir: Path) -> None:
    supervisor = supervise(declare(run_dir, family=True, wait=True))
    grandchild = pid_in(run_dir / "grandchild")
    supervisor.send_signal(signal.SIGSTOP)
    cancel(supervisor, f"test-{run_dir}", patience=0.1, kill_after=0.3)
    assert not lives(grandchild)


@pytest.mark.parametrize(("in_a_pod", "code"), [(True, 75), (False, 130)])
def test_a_cancel_in_a_pod_lets_a_training_save_what_another_pod_goes_on_from(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, in_a_pod: bool, code: int
) -> None:
    if in_a_pod:
        monkeypatch.setenv(GRACE, "45")
    declare(run_dir, wait=True, on={"SIGTERM": 75, "SIGINT": 130})
    program = start_program("program", run_dir)
    pid_in(run_dir / "pid")
    program.cancel()
    assert program.wait(1) == code
    program.close()


def test_a_cancelled_program_has_the_seconds_to_save_that_it_was_told(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "GRACE", 0.2)
    monkeypatch.setenv(GRACE, "3")
    program = start_program("program", declare(run_dir, wait=True, saves=2))
    pid_in(run_dir / "pid")
    program.cancel()
    assert program.wait(1) == 75
    program.close()


@pytest.mark.parametrize("told", ["", "30", "300"])
def test_who_waits_for_a_program_waits_longer_than_it_was_told_that_it_has(
    monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    monkeypatch.setenv(GRACE, told)
    has = float(told or 10)
    assert has < torch_patience() < usual_patience().grace


def test_a_preempted_program_ends_with_its_own_code(run_dir: Path) -> None:
    supervisor = supervise(declare(run_dir, wait=True, on={"SIGTERM": 75, "SIGINT": 1}), grace=30)
    pid_in(run_dir / "pid")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(30) == 75


def test_a_preempted_program_that_has_to_be_killed_counts_as_preempted(run_dir: Path) -> None:
    supervisor = supervise(declare(run_dir, wait=True))
    pid_in(run_dir / "pid")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(30) == 75


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_launcher_that_ends_with_a_code_of_its_own_counts_as_asked(
    run_dir: Path, number: signal.Signals, code: int
) -> None:
    supervisor = supervise(declare(run_dir, wait=True, on={number.name: 1}), grace=30)
    pid_in(run_dir / "pid")
    supervisor.send_signal(number)
    assert supervisor.wait(30) == code


def test_a_cancelled_program_may_use_its_grace(run_dir: Path) -> None:
    supervisor = supervise(declare(run_dir, wait=True, on={"SIGTERM": 1, "SIGINT": 130}), grace=30)
    pid_in(run_dir / "pid")
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(30) == 130


def test_a_cancelled_program_that_has_to_be_killed_counts_as_cancelled(run_dir: Path) -> None:
    supervisor = supervise(declare(run_dir, wait=True, family=True))
    grandchild = pid_in(run_dir / "grandchild")
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(30) == 130
    assert not lives(grandchild)


def test_a_supervisor_at_a_terminal_or_dev_null_does_not_take_it_for_a_dead_launcher(run_dir: Path) -> None:
    supervisor = supervise(declare(run_dir, exit=5), stdin=subprocess.DEVNULL)
    assert supervisor.wait(30) == 5


@pytest.mark.usefixtures("each_start")
def test_devices_are_not_free_while_a_program_of_a_killed_launcher_ends(
    run_dir: Path, leases: Leases, start: Start
) -> None:
    launcher = start("launcher.py", declare(run_dir, hold=True, stubborn=True), 1.0, leases.folder)
    program = pid_in(run_dir / "pid")
    launcher.kill()
    launcher.wait()
    while True:
        states = {device.state for device in leases.table().devices}
        if not lives(program):
            break
        assert states == {"orphaned"}
    wait_until(lambda: {device.state for device in leases.table().devices} == {"free"})
