"""What a child program asks of the system, and how it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.program import (
    M_MMAP_THRESHOLD,
    M_TRIM_THRESHOLD,
    ProgramRequest,
    keep_freed_memory,
    run_program,
    write_json,
)

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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "exit_code", "said"), [("None", 0, ""), ("75", 75, ""), ("'why'", 1, "why\n")]
)
def test_leaving_is_what_sys_exit_does(code: str, exit_code: int, said: str) -> None:
    done = ended(code)
    assert (done.returncode, done.stdout, done.stderr) == (exit_code, "printed by a thread at exit", said)


def test_output_that_nobody_takes_is_no_success() -> None:
    with open("/dev/full", "w") as full:
        assert ended("0", full.fileno()).returncode == 120


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_of_which_an_extension_makes_another_error_is_still_that_signal(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    def work(_: ProgramRequest) -> dict[str, Any]:
        try:
            signal.raise_signal(number)
        except SystemExit:
            raise SystemError("returned a result with an exception set") from None
        return {}

    write_json(tmp_path / "run.json", {"output": str(tmp_path / "output")})
    assert run_program(tmp_path, ProgramRequest, work) == code
    assert not (tmp_path / "output/result.json").exists()


FAULTS = """
import resource, sys
from ft_dagster.program import keep_freed_memory
if sys.argv[1] == "kept": keep_freed_memory()
bytearray(2**27)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4): bytearray(2**27)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
def test_what_a_program_freed_costs_it_no_page_again() -> None:
    faults = [
        int(subprocess.check_output([sys.executable, "-c", FAULTS, how])) for how in ("kept", "given back")
    ]
    assert faults[0] < faults[1] / 2


@pytest.mark.parametrize(("most", "taken"), [(2**40, 2**30), (2**25, 2**25), (0, None)])
def test_a_glibc_that_keeps_less_keeps_what_it_can(
    most: int, taken: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another version than is here: one that takes no threshold of mmap above `most`."""
    kept: dict[int, int] = {}

    class Other:
        @staticmethod
        def mallopt(setting: int, value: int) -> int:
            if setting == M_MMAP_THRESHOLD and value > most:
                return 0
            kept[setting] = value
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Other)
    keep_freed_memory()
    assert kept.get(M_MMAP_THRESHOLD) == taken
    assert (M_TRIM_THRESHOLD in kept) == (taken is not None)
