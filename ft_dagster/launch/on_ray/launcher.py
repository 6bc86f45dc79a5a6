"""Runs the programs of a run that is a job of Ray on nodes beside it: those of a variant that trains on
several nodes. The run itself holds no device; each program gets its own for as long as it runs, all or none.

Run and nodes work in `cluster.shared_folder`, so that nothing is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from ft_dagster.cluster import TENANT, Cluster, RaySettings
from ft_dagster.exit_codes import TRANSIENT
from ft_dagster.launch.launcher import OFFLINE, Job, LocalLauncher, LocalRun, Say, credentials
from ft_dagster.launch.leases import THREADS, Ask
from ft_dagster.launch.local import Patience, StartedProgram, start_program, usual_patience
from ft_dagster.launch.offer import inventory_of
from ft_dagster.launch.warm.choice import START
from ft_dagster.program import ProgramResult, write_json

DRIVER = "ft_dagster.launch.on_ray.driver"
PLACING = "placing.json"  # in a run folder: what the driver is told
SAID = "said.txt"  # and what it printed
OWN = "ft_dagster: "  # begins a line of its own, beside those of the program
ENDS = f"{OWN}the program ended with "  # begins the last line of a driver that ends by itself
LEAVING_SECONDS = 10.0  # from the end of a program to what is known of it


def beside_devices(ray: RaySettings, ask: Ask) -> dict[str, float]:
    """Return what a job, or each node of a program, is to give besides its devices."""
    name = ray.tenant_resource
    tenant = {name.replace(TENANT, ask.tenant): float(ask.count)} if name else {}
    return {**tenant, **ray.resources}


def stop_seconds() -> float:
    """Return how long all nodes may take to end once they were asked: as long as the program's supervisor."""
    return sum(usual_patience()) + LEAVING_SECONDS


@dataclass
class PlacedProgram:
    """Holds what follows a program, and what it printed so far."""

    program: StartedProgram
    printed: BinaryIO
    rest: bytes = b""
    ended: bool = False

    def pass_on(self, say: Say) -> None:
        """Lines of the driver go into the step's log, all else to its output."""
        *whole, self.rest = (self.rest + self.printed.read()).split(b"\n")
        for line in whole:
            text = line.decode("utf-8", "replace")
            if text.startswith(ENDS):
                self.ended = True
            elif text.startswith(OWN):
                say(text.removeprefix(OWN))
            else:
                print(text, flush=True)

    def close(self) -> None:
        self.program.close()
        self.printed.close()


@dataclass(frozen=True)
class PlacedLauncher:
    """Has Ray place programs whose ask says so, by what the settings say of jobs and nodes; runs all others
    `here`.
    """

    here: LocalLauncher
    ray: RaySettings
    cluster: Cluster

    def stage_in(self, job: Job) -> None:
        job.write_request()

    def start(self, job: Job, say: Say) -> LocalRun | PlacedProgram:
        ask = job.ask
        if ask is None or not ask.placed:
            return self.here.start(job, say)
        own = {"GPU" if self.cluster.gpus else "CPU": float(ask.count)}
        environment = {**credentials(job.profile), START: "off"}
        threads = dict.fromkeys(THREADS, str(inventory_of(self.cluster).threads(ask.count)))
        told = {
            "module": job.module,
            "nodes": ask.nodes,
            "each": {**own, **beside_devices(self.ray, ask)},
            "environment": {**OFFLINE, **threads, **job.environment, **environment},
        }
        write_json(job.run_dir / PLACING, told)
        printed = job.run_dir / SAID
        printed.unlink(missing_ok=True)
        printed.touch()
        patience = Patience(stop_seconds() + LEAVING_SECONDS)
        program = start_program(
            DRIVER, job.run_dir, environment=environment, patience=patience, output=printed
        )
        return PlacedProgram(program, printed.open("rb"))

    def report(self, started: LocalRun | PlacedProgram, say: Say) -> int | None:
        if isinstance(started, LocalRun):
            return self.here.report(started, say)
        code = started.program.wait(1.0)
        started.pass_on(say)
        if code is None or started.ended:
            return code
        say("what followed the program was ended, as by Ray where its head is gone for a minute")
        return TRANSIENT

    def cancel(self, started: LocalRun | PlacedProgram) -> None:
        if isinstance(started, LocalRun):
            self.here.cancel(started)
            return
        try:
            started.program.cancel()
        finally:
            started.close()

    def collect(self, job: Job, started: LocalRun | PlacedProgram, exit_code: int) -> ProgramResult:
        if isinstance(started, LocalRun):
            return self.here.collect(job, started, exit_code)
        started.close()
        return job.read_result(exit_code)
