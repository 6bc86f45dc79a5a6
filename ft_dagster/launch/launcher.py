"""A launcher: where a program of this package runs, and how it is started, watched, ended and collected."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from ft_dagster.launch.leases import Ask, Lease, Leases
from ft_dagster.launch.local import failure_of, run_program
from ft_dagster.program import write_json

PACKAGE = "ft_dagster"
OFFLINE = {"TOKENIZERS_PARALLELISM": "false"}
RUN_FILE, RESULT_FILE, OUTPUT = "run.json", "result.json", "output"


@dataclass(frozen=True)
class Job:
    """One program to run: `python -m ft_dagster.<program> RUN_DIR`, which reads RUN_DIR/run.json (`request`)
    and leaves RUN_DIR/output/result.json. `ask`: the devices it needs; None: none. `lessee`: for whom.
    """

    program: str
    run_dir: Path
    request: BaseModel
    ask: Ask | None
    environment: Mapping[str, str]
    lessee: str

    @property
    def result_file(self) -> Path:
        return self.run_dir / OUTPUT / RESULT_FILE


class Launcher(Protocol):
    """Where programs run."""

    def run(self, job: Job, say: Callable[[str], None]) -> dict[str, Any]:
        """Run the job to its end; returns its result.json. Raises ProgramFailed; what is raised here
        meanwhile cancels the job, and is raised again once nothing of it is left.
        """


class LocalLauncher:
    """Runs programs on this host, those that ask for devices under a lease."""

    def __init__(self, leases: Leases) -> None:
        self.leases = leases

    def run(self, job: Job, say: Callable[[str], None]) -> dict[str, Any]:
        stage_in(job)
        with self._lease(job, say) as lease:
            code = run_program(
                f"{PACKAGE}.{job.program}", job.run_dir, lease, environment={**OFFLINE, **job.environment}
            )
        return collect(job, code)

    @contextmanager
    def _lease(self, job: Job, say: Callable[[str], None]) -> Iterator[Lease | None]:
        if job.ask is None:
            yield None
            return
        with self.leases.acquire(job.ask, on_wait=say) as lease:
            say(f"{lease.kind} {', '.join(lease.devices)} leased to {job.lessee}")
            yield lease


def stage_in(job: Job) -> None:
    """Write what the program reads, and remove what one before it left."""
    job.result_file.unlink(missing_ok=True)
    write_json(job.run_dir / RUN_FILE, job.request.model_dump(mode="json"))


def collect(job: Job, exit_code: int) -> dict[str, Any]:
    """The program's result. Raises ProgramFailed."""
    file = job.result_file
    result: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    failure = failure_of(job.program, exit_code, result)
    if failure is not None:
        raise failure
    return result
