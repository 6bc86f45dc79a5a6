"""A launcher of another kind: each program in namespaces of its own, without a network, on copied folders."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from ft_dagster.errors import UserError
from ft_dagster.evaluation.request import TextsRequest
from ft_dagster.launch.launcher import OUTPUT, RUN_FILE, Job, Launcher, Say, carry_out
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.program import ProgramResult

NAMESPACES = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"]


@dataclass
class Scope:
    folder: Path
    process: subprocess.Popen[bytes]


class ScopeLauncher:
    """Programs see a folder of their own and no network; all of a scope ends with its first process."""

    def __init__(self, scopes: Path) -> None:
        self.scopes = scopes

    def stage_in(self, job: Job) -> None:
        job.write_request()
        shutil.copytree(job.run_dir, self.scopes / job.run_dir.name)

    def start(self, job: Job, say: Say) -> Scope:
        folder = self.scopes / job.run_dir.name
        text = (folder / RUN_FILE).read_text("utf-8").replace(str(job.run_dir), str(folder))
        (folder / RUN_FILE).write_text(text, "utf-8")
        say(f"a scope for {job.lessee}")
        command = [*NAMESPACES, sys.executable, "-P", "-m", job.module, str(folder)]
        return Scope(folder, subprocess.Popen(command))

    def report(self, started: Scope, say: Say) -> int | None:
        try:
            return started.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return None

    def cancel(self, started: Scope) -> None:
        started.process.send_signal(signal.SIGSTOP)  # starts nothing any more, so that the list is whole
        inside = psutil.Process(started.process.pid).children(recursive=True)
        started.process.kill()
        for process in inside:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        started.process.wait()
        psutil.wait_procs(inside, timeout=60)

    def collect(self, job: Job, started: Scope, exit_code: int) -> ProgramResult:
        shutil.copytree(started.folder / OUTPUT, job.run_dir / OUTPUT, dirs_exist_ok=True)
        return job.read_result(exit_code)


def _processes_that_name(folder: Path) -> list[psutil.Process]:
    processes = psutil.process_iter(["cmdline", "status"])
    running = [p for p in processes if p.info["status"] != psutil.STATUS_ZOMBIE]
    return [p for p in running if str(folder) in " ".join(p.info["cmdline"] or [])]


def job_in(folder: Path, *tasks: str) -> Job:
    run_dir = folder / "run"
    (run_dir / OUTPUT).mkdir(parents=True)
    named = dict.fromkeys(tasks, "0" * 64)
    request = TextsRequest(tasks=named, project=folder, output=run_dir / OUTPUT)
    return Job("evaluation.tasks.texts", run_dir, request, None, {}, "acme.support")


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher[Scope]:
    return ScopeLauncher(tmp_path / "scopes")


@pytest.mark.slow
def test_a_program_runs_there_and_its_output_comes_back(launcher: Launcher[Scope], tmp_path: Path) -> None:
    said: list[str] = []
    job = job_in(tmp_path)
    result = carry_out(launcher, job, said.append)
    assert result["status"] == "done"
    assert (job.run_dir / OUTPUT / "payload" / "texts.parquet").is_file()
    assert said == ["a scope for acme.support"]


@pytest.mark.slow
def test_a_users_mistake_is_told_as_everywhere(launcher: Launcher[Scope], tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed) as failure:
        carry_out(launcher, job_in(tmp_path, "no_such_task.yaml"), print)
    assert "no_such_task" in str(failure.value)
    assert not failure.value.mendable


def test_an_interrupt_cancels_the_job(launcher: Launcher[Scope], tmp_path: Path) -> None:
    started: list[Scope] = []

    class Interrupted(ScopeLauncher):
        def report(self, started_now: Scope, say: Say) -> int | None:
            started.append(started_now)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the interrupt comes first")

    with pytest.raises(KeyboardInterrupt):
        carry_out(Interrupted(tmp_path / "scopes"), job_in(tmp_path), print)
    assert started[0].process.returncode == -signal.SIGKILL
    assert _processes_that_name(tmp_path) == []


@pytest.mark.slow
def test_what_the_launcher_raises_cancels_the_job_too(tmp_path: Path) -> None:
    cancelled: list[Scope] = []

    class Broken(ScopeLauncher):
        def report(self, started: Scope, say: Say) -> int | None:
            raise UserError("the scope is gone", fix="Start it again")

        def cancel(self, started: Scope) -> None:
            super().cancel(started)
            cancelled.append(started)

    with pytest.raises(UserError, match="the scope is gone"):
        carry_out(Broken(tmp_path / "scopes"), job_in(tmp_path), print)
    assert cancelled[0].process.returncode is not None
