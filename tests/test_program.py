"""How a child program ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys, threading, time
from ft_dagster.program import leave
print("printed", end="")
atexit.register(lambda: print(" at exit", end=""))
threading.Thread(target=lambda: (time.sleep(0.2), print(" by a thread", end=""))).start()
leave({code})
print(" never")
"""


def ended(code: str, output: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(code=code)]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        command, stdout=output, stderr=subprocess.PIPE, text=True, check=False, env=buffered
    )


@pytest.mark.parametrize(
    ("code", "exit_code", "said"), [("None", 0, ""), ("75", 75, ""), ("'why'", 1, "why\n")]
)
def test_leaving_is_what_sys_exit_does(code: str, exit_code: int, said: str) -> None:
    done = ended(code)
    assert (done.returncode, done.stdout, done.stderr) == (exit_code, "printed by a thread at exit", said)


def test_output_that_nobody_takes_is_no_success() -> None:
    with open("/dev/full", "w") as full:
        assert ended("0", full.fileno()).returncode == 120
