"""The plan on all cores is the plan on one, each in a program of its own: pytest's workers have threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

COPIES = """
import os
from ft_dagster.planning.parallel import map_parallel
found = map_parallel(lambda item: (item, os.getpid()), ["a", "b", "c"])
print([item for item, _ in found], os.getpid() in [pid for _, pid in found])
"""

KILLED = """
import os, signal
from ft_dagster.planning.parallel import in_own_process
in_own_process(lambda: os.kill(os.getpid(), signal.SIGKILL))
"""
WAITING = """
import os, time
from ft_dagster.planning.parallel import in_own_process
in_own_process(lambda: print(os.getpid(), flush=True) or time.sleep(60))
"""


def run(command: list[str | Path], cores: int) -> str:
    """What a command says, on so many of the cores."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    narrow: Callable[[], None] = lambda: os.sched_setaffinity(0, allowed)  # noqa: E731
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, preexec_fn=narrow).stdout


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: nothing is shared out")
@pytest.mark.parametrize(("cores", "here"), [(1, True), (2, False)])
def test_results_come_in_order_from_copies_or_from_the_process_itself(cores: int, here: bool) -> None:
    assert run([sys.executable, "-c", COPIES], cores) == f"['a', 'b', 'c'] {here}\n"


def test_a_copy_that_is_killed_is_one_message() -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ft_dagster.errors.UserError: a process of the plan was")


@pytest.mark.slow
def test_no_copy_outlives_the_process() -> None:
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        copy = psutil.Process(int(program.stdout.readline()))
        program.kill()
    psutil.wait_procs([copy], timeout=30)
    assert not copy.is_running() or copy.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
@pytest.mark.long
def test_a_plan_is_the_same_on_one_core_and_on_two(tiny_model_folder: Path) -> None:
    program = Path(sys.executable).with_name("ft-dagster")
    asked = ["--examples", "1000", "--objective", "instruction", "--gpus", "1xT4", "--json"]

    def plan(cores: int) -> Any:
        return json.loads(run([program, "recommend", "--model", tiny_model_folder, *asked], cores))

    assert plan(1) == plan(2)
