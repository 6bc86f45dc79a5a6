"""Small words of the launch tests."""

from __future__ import annotations

import json
import select
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from ft_dagster.launch.inventory import Device, Inventory
from ft_dagster.launch.leases import Ask
from ft_dagster.launch.local import Patience, run_program
from tests.present import present

PROGRAMS = Path(__file__).parent / "programs"


def slots(count: int) -> Inventory:
    return Inventory("cpu", tuple(Device(str(n), None, "CPU slot") for n in range(count)))


def ask(
    count: int = 1, name: str = "support", priority: int = 0, memory_bytes: int = 0, tenant: str = "acme"
) -> Ask:
    return Ask(f"{tenant}.{name}", tenant, count, priority, "a test", name, memory_bytes)


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def line_of(process: subprocess.Popen[str], seconds: float = 30) -> str:
    """The next line that a process prints."""
    output = present(process.stdout)
    assert select.select([output], [], [], seconds)[0], "said nothing"
    return output.readline()


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


Start = Callable[..., "subprocess.Popen[str]"]


def declare(run_dir: Path, **run: Any) -> Path:
    (run_dir / "run.json").write_text(json.dumps(run))
    return run_dir


def run(run_dir: Path, grace: float = 0.3, **options: Any) -> int:
    return run_program("program", run_dir, patience=Patience(grace, 0.3), **options)


def pid_in(file: Path) -> int:
    wait_until(lambda: file.exists() and file.read_text())
    return int(file.read_text())
