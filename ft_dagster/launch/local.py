"""Start a program of this project on this host, wait for it, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, TypedDict, Unpack

from ft_dagster.errors import UserError
from ft_dagster.exit_codes import BAD_INPUT, CANCELLED, DONE, TRANSIENT
from ft_dagster.launch import processes
from ft_dagster.launch.leases import Lease
from ft_dagster.launch.warm.client import Wanted, WarmSupervisor, start_server, start_warm
from ft_dagster.program import ProgramResult
from ft_dagster.provenance.signing import without_key

GRACE = 45.0  # seconds; torchrun itself waits 30 for its workers
KILL_AFTER = 5.0
# How often a thread of torch asks whether the others are ready before it sleeps. libgomp asks for long: where
# anything else runs, each then burns its core while its neighbour waits for one.
SPINS = "10000"
Started = subprocess.Popen[bytes] | WarmSupervisor


class Patience(NamedTuple):
    """Seconds that a program has to end: `grace` after SIGINT, `kill_after` after SIGTERM."""

    grace: float = GRACE
    kill_after: float = KILL_AFTER


def usual_patience() -> Patience:
    """Return how long a program may take to end here: longer than it was told that it has to save."""
    return Patience(max(GRACE, processes.grace_told(0) + processes.LEAVING_SECONDS))


class ProgramOutcome(NamedTuple):
    """What an exit code means, and what a person should do about it."""

    kind: Literal["done", "bad_input", "transient", "cancelled", "failed"]
    happened: str
    remedy: str


class ProgramFailed(Exception):
    """A program ended without success.

    `happened` and `remedy` are for a person, `kept` says what of its work can be used again; `mendable`:
    running it once more can help. `training`: the folder of a training that failed.
    """

    def __init__(self, happened: str, remedy: str, *, mendable: bool) -> None:
        self.happened = happened
        self.remedy = remedy
        self.mendable = mendable
        self.kept: str | None = None
        self.training: Path | None = None
        super().__init__(happened)

    def __str__(self) -> str:
        """All of it in one line."""
        kept = "" if self.kept is None else f" Kept: {self.kept}."
        return f"{self.happened}.{kept} {self.remedy}"


class StartedProgram:
    """A program of this host under its supervisor, as `start_program` gives it."""

    def __init__(self, supervisor: Started, marker: str, patience: Patience) -> None:
        self._supervisor = supervisor
        self._marker = marker
        self._patience = patience

    def wait(self, seconds: float) -> int | None:
        """Its exit code, 128 + signal where one killed it; None where it still runs after so many seconds."""
        try:
            code = self._supervisor.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        if code < 0:  # the supervisor itself was killed
            processes.sweep(self._marker, self._patience.kill_after)
            return 128 - code
        return code

    def cancel(self) -> None:
        """SIGINT, then as its patience says; no process is left when this returns. In a pod or a job of Slurm
        SIGTERM in place of SIGINT: who ends it may want its place alone, and the run goes on from what is
        saved now.
        """
        grace, kill_after = self._patience
        first = signal.SIGTERM if processes.GRACE in os.environ else signal.SIGINT
        cancel(self._supervisor, self._marker, grace + kill_after + 30, kill_after, first)

    def preempt(self) -> None:
        """SIGTERM: it saves what it goes on from, and ends."""
        self._supervisor.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Let go of the supervisor: of one that still runs, the program is ended by it."""
        _let_go(self._supervisor)


def start_program(
    module: str,
    run_dir: Path,
    lease: Lease | None = None,
    *,
    environment: dict[str, str] | None = None,
    patience: Patience | None = None,
    output: Path | None = None,
    marker: str | None = None,
) -> StartedProgram:
    """Start `python -m module RUN_DIR` under a supervisor.

    `environment` is added to this process' own, the lease's over it. Standard output and error are inherited,
    or both appended to `output`. `patience`: else `usual_patience`. `marker` is the FT_DAGSTER_RUN of all its
    processes: unique, made up where it is not given.
    """
    marker = marker or f"{run_dir.name}-{uuid.uuid4().hex[:8]}"
    patience = patience or usual_patience()
    grace, kill_after = patience
    python = [sys.executable, "-P", "-m"]  # -P: a folder we are started in must not shadow a library
    program = [*python, module, str(run_dir)]
    options = ["--grace", str(grace), "--kill-after", str(kill_after), "--marker", marker]
    wanted = Wanted(
        module=module,
        argument=str(run_dir),
        marker=marker,
        grace=grace,
        kill_after=kill_after,
        supervisor=[*python, "ft_dagster.launch.supervisor", *options, "--", *program],
        program=program,
        environment=_environment(lease, environment),
    )
    sys.stdout.flush()
    sys.stderr.flush()
    with ExitStack() as stack:
        log = stack.enter_context(output.open("ab")) if output is not None else None
        supervisor = start_warm(wanted, log.fileno() if log is not None else None) or _start(wanted, log)
    return StartedProgram(supervisor, marker, patience)


def make_ready(environment: dict[str, str] | None = None) -> None:
    """Have what programs of this environment are forked from import, while other things are done."""
    start_server(_environment(None, environment))


class ProgramOptions(TypedDict, total=False):
    """What `start_program` takes by name."""

    environment: dict[str, str] | None
    patience: Patience
    output: Path | None
    marker: str | None


def run_program(
    module: str,
    run_dir: Path,
    lease: Lease | None = None,
    *,
    poll: Callable[[], None] | None = None,
    **options: Unpack[ProgramOptions],
) -> int:
    """Start a program (see `start_program`) and wait for its end; its exit code.

    `poll` is called about once a second. Whatever is raised here meanwhile (an interrupt, an error of `poll`)
    cancels the program, and is raised again once no process is left.
    """
    program = start_program(module, run_dir, lease, **options)
    try:
        while (code := program.wait(1.0)) is None:
            if poll is not None:
                poll()
        return code
    except BaseException:
        program.cancel()
        raise
    finally:
        program.close()


def classify(exit_code: int) -> ProgramOutcome:
    """What a program's exit code means. Negative codes (Python's for signals) count as 128 + signal."""
    code = 128 - exit_code if exit_code < 0 else exit_code
    again = "Run it again: it goes on from what was kept"
    known = {
        DONE: ProgramOutcome("done", "done", ""),
        BAD_INPUT: ProgramOutcome(
            "bad_input", "bad input", "The error names the file, the field and the way out"
        ),
        TRANSIENT: ProgramOutcome("transient", "preempted (SIGTERM), or a passing trouble", again),
        127: ProgramOutcome("failed", "it could not be started", "Is ft_dagster installed where it runs?"),
        128 + signal.SIGHUP: ProgramOutcome("transient", "hung up from outside (SIGHUP)", again),
        CANCELLED: ProgramOutcome("cancelled", "cancelled (SIGINT)", again),
        128 + signal.SIGKILL: ProgramOutcome(
            "transient", "killed (SIGKILL), maybe for want of memory: `dmesg` says", again
        ),
        128 + signal.SIGTERM: ProgramOutcome("transient", "ended from outside (SIGTERM)", again),
    }
    if code in known:
        return known[code]
    read = "Its output, in this step's stderr, says why"
    if 128 < code <= 128 + signal.NSIG:
        return ProgramOutcome("failed", f"crashed with {_signal_name(code - 128)}", read)
    return ProgramOutcome("failed", f"failed with exit code {code}", read)


def failure_of(program: str, exit_code: int, result: ProgramResult) -> ProgramFailed | None:
    """What went wrong with a program that left this result.json (empty: none), or None."""
    outcome = classify(exit_code)
    mendable = outcome.kind == "transient"
    if "error" in result:
        error = UserError.from_dict(result["error"])
        return ProgramFailed(error.statement, error.fix, mendable=mendable)
    if outcome.kind != "done":
        return ProgramFailed(f"{program}: {outcome.happened}", outcome.remedy, mendable=mendable)
    if not result:
        remedy = "Its output, in this step's stderr, may say why"
        return ProgramFailed(f"{program} ended without a result", remedy, mendable=False)
    return None


def _start(wanted: Wanted, log: BinaryIO | None) -> subprocess.Popen[bytes]:
    """A supervisor by a plain start."""
    return subprocess.Popen(
        wanted.supervisor,
        env=wanted.environment,
        stdin=subprocess.PIPE,  # its end tells the supervisor that this process died
        stdout=log,
        stderr=log,
        start_new_session=True,  # a Ctrl-C in a terminal reaches this process alone, which then decides
    )


def _let_go(supervisor: Started) -> None:
    if isinstance(supervisor, WarmSupervisor):
        supervisor.close()
    elif supervisor.stdin is not None:
        supervisor.stdin.close()


def _environment(lease: Lease | None, extra: dict[str, str] | None) -> dict[str, str]:
    # Unbuffered, so that Dagster's compute logs show each line when it is printed.
    own = {"PYTHONUNBUFFERED": "1", "GOMP_SPINCOUNT": SPINS, **without_key(os.environ), **(extra or {})}
    return {**own, **(lease.environment() if lease is not None else {})}


def cancel(
    supervisor: Started,
    marker: str,
    patience: float,
    kill_after: float = KILL_AFTER,
    first: signal.Signals = signal.SIGINT,
) -> None:
    """Cancel what a supervisor runs and wait until nothing is left; further interrupts do not hurry it.

    A supervisor that does not end in `patience` seconds (stopped, stuck) is killed, and its run swept.
    """
    deadline = time.monotonic() + patience
    supervisor.send_signal(first)
    while supervisor.poll() is None:
        try:
            supervisor.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                supervisor.kill()
        except BaseException as error:
            with suppress(OSError):
                print(f"still ending {marker} ({type(error).__name__})", file=sys.stderr, flush=True)
    if supervisor.returncode is not None and supervisor.returncode < 0:
        processes.sweep(marker, kill_after)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
