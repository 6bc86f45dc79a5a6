"""The plug is pulled, on a disk that forgets what was not synced: what was said to be there is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ft_dagster.data.sources.upstream import newest_snapshot
from ft_dagster.launch.warm.choice import START
from ft_dagster.lineage.log import read_log
from ft_dagster.records.record_keys import read_keys
from ft_dagster.store import Store, find_artifact, read_head, verify_artifact
from tests.chaos.programs import promises
from tests.e2e.project import command_environment, write_project
from tests.power_cut import PowerCutDisk, why_not_here

FT_DAGSTER = Path(sys.executable).with_name("ft-dagster")
KEY, PREFIX = "acme.places", "tenants/acme/places"
CUT_AFTER = (2, 5, 6, 9)  # artifacts: the power is cut as soon as so many are in the store
pytestmark = [pytest.mark.slow, pytest.mark.skipif(why_not_here() is not None, reason=str(why_not_here()))]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[PowerCutDisk]:
    disk = PowerCutDisk(tmp_path / "power", megabytes=64)
    yield disk
    disk.remove()


def artifact(disk: Path, number: int) -> None:
    store = Store(str(disk / "store"))
    found = find_artifact(store, promises.recipe(number).place)
    assert found is not None
    verify_artifact(store, found, disk / "hashes.sqlite")


def head(disk: Path, number: int) -> None:
    found = read_head(Store(str(disk / "store")), promises.PREFIX, "task_dataset")
    assert found is not None
    assert found.place == promises.recipe(number).place


def release(disk: Path, number: int) -> None:
    log = read_log(Store(str(disk / "store")), promises.PREFIX)
    assert ([entry.version for entry in log.entries][number - 1 :], log.uncounted) == ([number], ())


def upload(disk: Path, number: int) -> None:
    assert Store(str(disk / "store")).read(f"runs/{number}/checkpoint") == b"c" * 100_000


def claim(disk: Path, number: int) -> None:
    assert Store(str(disk / "store")).read(f"claims/{number:06d}.json") == b"{}"


def key(disk: Path, number: int) -> None:
    assert len(read_keys(disk / "keys/tenants/acme.json").keys) == number


def snapshot(disk: Path, number: int) -> None:
    found = newest_snapshot(disk / "project", "tickets")
    assert found.made.event == number
    assert found.file(disk / "project").read_bytes() == f'{{"id": {number}}}\n'.encode()


def declaration(disk: Path, number: int) -> None:
    assert (disk / f"project/tenants/acme/{number}.yaml").read_text() == "model:"


HOLDS: dict[str, Callable[[Path, int], None]] = {
    check.__name__: check for check in (artifact, head, release, upload, claim, key, snapshot, declaration)
}


def test_what_was_said_to_be_written_is_there_after_the_power_was_cut(disk: PowerCutDisk) -> None:
    (disk.mount / "work").mkdir()
    (disk.mount / "work/checkpoint").write_bytes(b"c" * 100_000)
    program = subprocess.Popen(
        [sys.executable, promises.__file__, str(disk.mount)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stdin is not None
    assert program.stdout is not None
    lost = []
    with program:
        for promised in program.stdout:
            kind, number = promised.split()
            with disk.after_cut() as left:
                try:
                    HOLDS[kind](left, int(number))
                except Exception as error:
                    lost.append(f"{promised.strip()}: {error!r}")
            program.stdin.write("go on\n")
            program.stdin.flush()
    assert program.returncode == 0
    assert lost == []


class Host:
    """A project, its store, its work and Dagster's instance on a disk whose power is cut."""

    def __init__(self, disk: PowerCutDisk, model: Path) -> None:
        self.disk, self.folder = disk, write_project(disk.mount / "project", model)
        self.environment = {**os.environ, **command_environment(self.folder), START: "off"}
        os.sync()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [FT_DAGSTER, *arguments], cwd=self.folder, env=self.environment, text=True, **pipes
        )

    def ask(self, *arguments: str) -> str:
        program = self.start(*arguments)
        said, complained = program.communicate()
        assert program.returncode == 0, (arguments, said, complained)
        return said

    def wait_for(self, made: int, running: subprocess.Popen[str]) -> None:
        """Return once the store has this many artifacts; a command that ended before that has failed."""
        while len(list((self.folder / ".ft_dagster/store").rglob("manifest.json"))) < made:
            assert running.poll() is None, running.communicate()
            time.sleep(0.05)

    def cut(self) -> None:
        """Kill all that runs on the disk, and cut its power."""
        self.end()
        self.disk.cut()

    def end(self) -> None:
        """Kill all that runs on the disk."""
        while found := self._processes():
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(found, timeout=10)

    def _processes(self) -> list[psutil.Process]:
        found, mine = [], str(self.disk.mount)
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                words = (*process.cmdline(), *process.environ().values(), process.cwd())
                alive = process.status() != psutil.STATUS_ZOMBIE
                if process.pid != os.getpid() and alive and any(mine in word for word in words):
                    found.append(process)
        return found

    @property
    def store(self) -> Store:
        return Store(str(self.folder / ".ft_dagster/store"))

    def check_released(self) -> None:
        (row,) = json.loads(self.ask("status", KEY, "--json"))["variants"]
        assert row["state"] == "fresh"
        assert [entry.production for entry in read_log(self.store, PREFIX).entries] == [1]
        self.ask("audit", "verify", "--all")

    def model(self) -> str:
        made = read_head(self.store, PREFIX, "fine_tuned_model")
        assert made is not None
        return made.digest


@contextmanager
def host_on(folder: Path, model: Path) -> Iterator[Host]:
    disk = PowerCutDisk(folder, megabytes=512)
    host = Host(disk, model)
    try:
        yield host
    finally:
        host.end()
        disk.remove()


@pytest.mark.long
def test_a_variant_is_released_as_the_same_model_over_power_cuts_and_stays_released(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    with host_on(tmp_path / "undisturbed", tiny_model_folder) as undisturbed:
        undisturbed.ask("run", KEY)
        undisturbed.cut()  # as soon as the command said that it is released
        undisturbed.check_released()
        model = undisturbed.model()

    with host_on(tmp_path / "cut", tiny_model_folder) as host:
        for made in CUT_AFTER:
            running = host.start("run", KEY)
            host.wait_for(made, running)
            host.cut()
            running.communicate()
            host.ask("audit", "verify", "--all")
        host.ask("run", KEY)
        host.cut()
        host.check_released()
        assert host.model() == model
