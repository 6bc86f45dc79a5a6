"""Bad days of a host: a full disk, a program that prints a gigabyte, a zombie."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ft_dagster.errors import UserError
from ft_dagster.launch.launcher import Job
from ft_dagster.launch.local import run_program
from ft_dagster.launch.processes import carriers
from ft_dagster.launch.warm import choice
from ft_dagster.program import ProgramRequest
from ft_dagster.training.checkpoints import complete, newest_good
from tests.chaos.disturbed_runs import Admit
from tests.launch.helpers import PROGRAMS
from tests.training.runs import Runs, result_of, write_mixture

pytestmark = [pytest.mark.slow, pytest.mark.long]
SETTINGS = {"num_train_epochs": 24.0, "evaluations": 8}


@pytest.fixture
def runs(tmp_path: Path, tiny_model_folder: Path) -> Runs:
    return Runs(tmp_path, tiny_model_folder, write_mixture(tmp_path / "mixture"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB of its own; mounting one takes root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a disk here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_the_disk_is_full_at_a_checkpoint(admit: Admit, runs: Runs, small_disk: Path) -> None:
    output = small_disk / "acme.support"
    kept = {"keep_last": 8, "keep_best": 8}
    run_folder = runs.prepare("full", training={**SETTINGS, **kept}, output=str(output))
    disturbed = admit("training", run_folder)
    assert disturbed.end() == 2, disturbed.said
    error = json.loads((output / "result.json").read_text())["error"]
    assert "the disk is full" in error["problem"]
    assert error["file"] == str(output)
    assert newest_good(output / "checkpoints") == complete(output / "checkpoints")[-1]
    disturbed.assert_nothing_is_left()


def test_a_disk_that_takes_no_files_any_more_is_said_with_the_way_out(
    admit: Admit, runs: Runs, small_disk: Path
) -> None:
    """As where its file system was taken away: what is open stays, and nothing is found or made there."""
    output = small_disk / "acme.support"
    disturbed = admit("training", runs.prepare("lost", training=SETTINGS, output=str(output)))
    disturbed.wait_for(lambda: complete(output / "checkpoints"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(small_disk)], check=True)
    try:
        code = disturbed.end()
        assert code is not None
        assert code not in (0, 75)
        said_of_lost_disk(code, output)
    finally:
        subprocess.run(["umount", "-l", str(small_disk)], check=True)
    assert newest_good(output / "checkpoints") is not None
    disturbed.assert_nothing_is_left()


def said_of_lost_disk(code: int, output: Path) -> None:
    job = Job("training", output.parent, ProgramRequest(output=output), None, {}, "acme.support")
    with pytest.raises(UserError, match="the disk was lost under a program: Read-only file system") as lost:
        job.read_result(code)
    assert "run it again" in lost.value.fix


def test_a_file_may_not_grow_at_a_checkpoint(admit: Admit, runs: Runs) -> None:
    disturbed = admit("training", runs.prepare("limited", training=SETTINGS))
    output = disturbed.run_folder / "acme.support"
    disturbed.wait_for(lambda: complete(output / "checkpoints"))
    disturbed.main().rlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    assert disturbed.end() == 2, disturbed.said
    assert "the disk is full" in result_of(disturbed.run_folder)["error"]["problem"]
    assert newest_good(output / "checkpoints") is not None
    disturbed.assert_nothing_is_left()


def declare(folder: Path, **run: object) -> Path:
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(run))
    return folder


def test_a_gigabyte_of_output_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a step's process and of the supervisor, neither of which reads it."""
    monkeypatch.setenv(choice.START, "off")  # so that the supervisor is a child of this process
    monkeypatch.setenv("PYTHONPATH", str(PROGRAMS), prepend=os.pathsep)
    run_folder = declare(tmp_path / "run", megabytes=1024)
    grown: list[int] = []
    others = set(psutil.Process().children())  # servers of other tests
    done = threading.Event()

    def held(child: psutil.Process) -> int:
        """Bytes; 0 of one that has ended, or still is the copy of this process that a fork is at first."""
        try:
            return int(child.memory_info().rss) if child.cmdline() != psutil.Process().cmdline() else 0
        except psutil.NoSuchProcess:
            return 0

    def watch() -> None:
        this = psutil.Process()
        before = this.memory_info().rss
        while not done.is_set():
            supervisors = [held(child) for child in set(this.children()) - others]
            grown.append(max(this.memory_info().rss - before, *supervisors, 0))
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    log = tmp_path / "log"
    assert run_program("program", run_folder, output=log) == 0
    done.set()
    thread.join()
    assert log.stat().st_size == 2**30
    assert max(grown) < 2**27  # an eighth of it; imports of the first program are some 70 MB
    log.unlink()


def test_a_zombie_is_no_process_to_wait_for(tmp_path: Path) -> None:
    """A dead child that its parent never collects holds nothing and ends with its parent."""
    script = "import os, time\nif os.fork() == 0: os._exit(0)\nprint(flush=True)\ntime.sleep(60)"
    environment = {**os.environ, "FT_DAGSTER_RUN": f"zombie-{tmp_path}"}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    parent.stdout.readline()
    time.sleep(0.2)
    (child,) = psutil.Process(parent.pid).children()
    assert child.status() == psutil.STATUS_ZOMBIE
    assert [process.pid for process in carriers(f"zombie-{tmp_path}")] == [parent.pid]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert carriers(f"zombie-{tmp_path}") == []
