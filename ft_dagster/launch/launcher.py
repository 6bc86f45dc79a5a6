"""A launcher: where a program of this package runs, and how it is started, watched, ended and collected."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel

from ft_dagster.errors import UserError
from ft_dagster.launch.leases import Ask, Leases
from ft_dagster.launch.local import StartedProgram, failure_of, start_program
from ft_dagster.program import ProgramResult, write_json

PACKAGE = "ft_dagster"
OFFLINE = {"TOKENIZERS_PARALLELISM": "false"}
RUN_FILE, RESULT_FILE, OUTPUT = "run.json", "result.json", "output"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN")
Say = Callable[[str], None]
R = TypeVar("R")


@dataclass(frozen=True)
class Job:
    """One program to run: `python -m ft_dagster.<program> RUN_DIR`, which reads RUN_DIR/run.json (`request`)
    and leaves RUN_DIR/output/result.json. `ask`: the devices it needs; None: none. `lessee`: for whom.
    `profile`: the AWS profile that it has and no other;
    None: whatever who starts it has. `left_at`: where in a remote store a training keeps what it goes on
    from.
    """

    program: str
    run_dir: Path
    request: BaseModel
    ask: Ask | None
    environment: Mapping[str, str]
    lessee: str
    profile: str | None = None
    left_at: str = ""

    @property
    def module(self) -> str:
        return f"{PACKAGE}.{self.program}"

    @property
    def result_file(self) -> Path:
        return self.run_dir / OUTPUT / RESULT_FILE

    def write_request(self) -> None:
        """Write run.json, and remove the result that a try before this one left."""
        self.result_file.unlink(missing_ok=True)
        write_json(self.run_dir / RUN_FILE, self.request.model_dump(mode="json"))

    def read_result(self, exit_code: int) -> ProgramResult:
        """The program's result.json. Raises ProgramFailed, and UserError where this host lost its disk."""
        file = self.result_file
        result: ProgramResult = json.loads(file.read_text("utf-8")) if file.exists() else {}
        if not result:
            _refuse_lost_disk(self.run_dir)
        failure = failure_of(self.program, exit_code, result)
        if failure is not None:
            raise failure
        return result


def _refuse_lost_disk(folder: Path) -> None:
    """Raises UserError where a program could leave no result: its folder is gone, or takes no files."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0")
    except OSError as error:
        problem = f"the disk was lost under a program: {error.strerror or error}"
        fix = (
            "Mend it and run it again, here or on another host: it goes on from the checkpoints that are left"
        )
        raise UserError(problem, file=folder, fix=fix) from error


class Launcher(Protocol[R]):
    """Where programs run. R is what it knows a started job by. `carry_out` calls these in this order."""

    def stage_in(self, job: Job) -> None:
        """Bring what the program reads to where it will run."""

    def start(self, job: Job, say: Say) -> R:
        """Start the program, once it has the devices that it asks for."""

    def report(self, started: R, say: Say) -> int | None:
        """Wait about a second and pass on what the program tells; its exit code once it has ended."""

    def cancel(self, started: R) -> None:
        """End the program and all that it started; nothing of it is left, or leased, when this returns."""

    def collect(self, job: Job, started: R, exit_code: int) -> ProgramResult:
        """Give back what it was lent, bring its output to RUN_DIR/output. Raises ProgramFailed."""


def _nobody_attends() -> None:
    pass


def carry_out(
    launcher: Launcher[R], job: Job, say: Say, attend: Callable[[], None] = _nobody_attends
) -> ProgramResult:
    """Run the job to its end; returns its result.json. Raises ProgramFailed; what is raised here meanwhile
    (an interrupt, or by `attend`, which is called about once a second) cancels the job, and is raised again
    once nothing of it is left.
    """
    launcher.stage_in(job)
    started = launcher.start(job, say)
    try:
        while (code := launcher.report(started, say)) is None:
            attend()
    except BaseException:
        launcher.cancel(started)
        raise
    return launcher.collect(job, started, code)


def credentials(profile: str | None) -> dict[str, str]:
    """The environment of a program that has the credentials of this AWS profile; those of its parent's
    environment, which would go before, read as none.
    """
    return {} if profile is None else {**dict.fromkeys(KEYS, ""), "AWS_PROFILE": profile}


@dataclass(frozen=True)
class LocalRun:
    """A program of this host, and what it was lent."""

    program: StartedProgram
    lent: ExitStack


def _say_wait(say: Say, why: str) -> None:
    say(f"waits for a device: {why}")


class LocalLauncher:
    """Runs programs on this host, under leases of its devices. `environment`: of all of them."""

    def __init__(self, leases: Leases, environment: Mapping[str, str] | None = None) -> None:
        self.leases = leases
        self.environment = {**OFFLINE, **(environment or {})}

    def stage_in(self, job: Job) -> None:
        job.write_request()

    def start(self, job: Job, say: Say) -> LocalRun:
        with ExitStack() as lent:
            lease = None
            if job.ask is not None:
                waits = partial(_say_wait, say)
                lease = lent.enter_context(self.leases.acquire(job.ask, on_wait=waits))
                say(f"{lease.kind} {', '.join(lease.devices)} leased to {job.lessee}")
            environment = {**self.environment, **job.environment, **credentials(job.profile)}
            program = start_program(job.module, job.run_dir, lease, environment=environment)
            lent.callback(program.close)
            return LocalRun(program, lent.pop_all())

    def report(self, started: LocalRun, say: Say) -> int | None:
        return started.program.wait(1.0)

    def cancel(self, started: LocalRun) -> None:
        with started.lent:
            started.program.cancel()

    def collect(self, job: Job, started: LocalRun, exit_code: int) -> ProgramResult:
        started.lent.close()
        return job.read_result(exit_code)
