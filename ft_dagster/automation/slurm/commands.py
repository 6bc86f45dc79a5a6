"""Speaks to Slurm by its own commands: what a job asks for and runs; how it is submitted, seen and ended."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ft_dagster.cluster import CPUS, CPUS_PER_GPU, Gpus, gpu_type, refuse_several_nodes
from ft_dagster.cluster import SLURM_CONFIG as CONFIG
from ft_dagster.errors import UserError
from ft_dagster.spec.variant import ResourcesSpec

PATIENCE = 30.0  # seconds for a command
SILENT = re.compile(
    r"unable to contact|connect failure|timed out|connection refused|zero bytes were transmitted|standby"
    r"|temporarily|munge|authentication",
    re.IGNORECASE,
)
MOST_NAMES = 500  # in one command
JOB_LINE = re.compile(r"\d+(\|.*){4}")  # not of a job of ours where a name has a line break
FULL = re.compile(r"submit limit|submitjob", re.IGNORECASE)  # of the jobs that an account or QOS may have
WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
LIVING = WAITING | {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
REFUSED = (  # what sbatch says, the field that it is about, the way out
    ("invalid account", "account", "Name one that `sacctmgr show associations user=$USER` shows"),
    (
        "partition not available",
        "partition",
        "It is inactive or drained: name another, or start the run again once it takes jobs",
    ),
    ("partition", "partition", "Name one that `sinfo` shows"),
    ("qos", "qos", "Name one that `sacctmgr show associations user=$USER` shows"),
    ("time limit", "time_limit", "Ask for less than `sinfo -o %P,%l` shows"),
    ("memory specification", "memory_gb", "Ask for less than `sinfo -o %P,%m` shows, in MiB"),
    ("cpu count", "cpus", "Ask for fewer, or declare fewer resources.cpu_slots, than `sinfo -o %P,%c` shows"),
    ("(gres)", "gpus", "Name a type that `sinfo -o %P,%G` shows; without one, leave `gpus` out"),
    ("configuration is not available", "gpus", "Compare with what `sinfo -N -o %N,%P,%c,%m,%G` shows"),
)
WAYS_OUT = (  # why Slurm says that a job waits, the way out
    (("Resources", "Priority", "None"), "It starts in its turn: `squeue --start -j {id}` says when"),
    (("QOS", "Assoc", "MaxJobs", "MaxCpu"), "A limit of its account or QOS is reached: name another"),
    (("PartitionTimeLimit",), f"{CONFIG}.time_limit is above the partition's: `sinfo -o %P,%l`"),
    (("PartitionDown", "PartitionInac"), f"Its partition is down: {CONFIG}.partition may name another"),
    (("ReqNodeNotAvail", "Nodes"), "Nodes are away: `sinfo -R` says why"),
    (("BadConstraints", "Partition", "Invalid"), "No node has that: cancel it, and ask for less"),
)  # fmt: skip


class SlurmError(Exception):
    """Tells what a command of Slurm complained of. `silent`: no controller answered, which may pass."""

    def __init__(self, said: str, *, silent: bool = False) -> None:
        super().__init__(said)
        self.silent = silent or bool(SILENT.search(said))


class SlurmJob(NamedTuple):
    """Holds a job's id and name, its state, its node or "", and why it waits or ended, in Slurm's words."""

    id: str
    name: str
    state: str
    node: str
    reason: str


@dataclass(frozen=True)
class SlurmOptions:
    """Holds what the platform says of its jobs, see `ft_dagster.automation.slurm.order.CONFIG`."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time_limit: str | None = None
    gpus: Gpus = field(default_factory=dict)
    cpus_per_gpu: int = CPUS_PER_GPU
    cpus: int = CPUS
    memory_gb: float | None = None
    grace_seconds: int = 60
    environment: Mapping[str, str] = field(default_factory=dict)
    environment_file: str | None = None

    def arguments(self) -> list[str]:
        """Return what each job gets, whatever it is for."""
        given = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "time": self.time_limit,
        }
        memory = [] if self.memory_gb is None else [f"--mem={int(self.memory_gb * 1e9) >> 20}M"]
        once = ["--nodes=1", "--ntasks=1", "--export=NIL", "--no-requeue"]  # Dagster does that
        warned = f"--signal=B:TERM@{self.grace_seconds}"
        return [*once, warned, *memory, *(f"--{name}={value}" for name, value in given.items() if value)]


def job_name(variant: str, run_id: str) -> str:
    """Return a run's name among jobs. Nothing in it means anything to a shell or to Slurm."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"ft-{variant}-{run_id}")


def run_slurm(*command: str, script: str = "") -> str:
    """Return what a command of Slurm prints. Raises SlurmError, and UserError where there is none."""
    try:
        done = subprocess.run(
            command, input=script, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except FileNotFoundError:
        fix = "Install Slurm's client (slurm-client) where Dagster's daemon, webserver and code location run"
        raise UserError(
            "Slurm's command is not on the path", field=CONFIG, value=command[0], fix=fix
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} gave no answer in {PATIENCE:.0f} s", silent=True) from None
    if done.returncode:
        raise SlurmError(" ".join(done.stderr.split()) or f"{command[0]} ended with {done.returncode}")
    return done.stdout


def script_of(command: Sequence[str], options: SlurmOptions, environment: Mapping[str, str]) -> str:
    """Return the script of a job. Who sees the job can read it: what is secret is in `environment_file`.
    `environment`: of this run; no file says another.
    """
    file = options.environment_file
    lines = ["#!/bin/bash", "export HOME=~ PATH", *_exports(options.environment)]
    lines += [] if file is None else [f"set -a; . {shlex.quote(file)} || exit 1; set +a"]
    return "\n".join([*lines, *_exports(environment), f"exec {shlex.join(command)}", ""])


def _exports(environment: Mapping[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items())]


def devices(options: SlurmOptions, resources: ResourcesSpec) -> list[str]:
    """Return what a declaration asks a job for: GPUs and their cores, or cores. Raises UserError where no
    node can have it.
    """
    refuse_several_nodes(resources)
    if not options.gpus:
        return [f"--cpus-per-task={resources.cpu_slots or options.cpus}"]
    kind, count = gpu_type(options.gpus, resources), resources.gpus
    return [
        f"--gres=gpu:{kind}{':' if kind else ''}{count}",
        f"--cpus-per-task={options.cpus_per_gpu * count}",
    ]


def submit(name: str, arguments: Sequence[str], script: str) -> str:
    """Submit a job; return its id. Raises SlurmError where no controller answers, UserError where one
    refuses.
    """
    try:
        return (
            run_slurm("sbatch", "--parsable", f"--job-name={name}", *arguments, script=script)
            .partition(";")[0]
            .strip()
        )
    except SlurmError as error:
        said = str(error)
        if error.silent:
            raise
        if FULL.search(said):
            way_out = (
                "Keep run_coordinator.config.max_concurrent_runs in dagster.yaml below how many jobs may be "
                "submitted, or ask for less of size or time"
            )
            raise SlurmError(f"{said}. {way_out}") from None
        known = (each[1:] for each in REFUSED if each[0] in said.casefold())
        field_of, fix = next(known, ("", "See `man sbatch`"))
        raise UserError(
            f"Slurm takes no such job: {said}", field=f"{CONFIG}.{field_of}".rstrip("."), fix=fix
        ) from None


def jobs_of(*names: str) -> list[SlurmJob]:
    """Return this user's jobs of these names, without any those of all, the oldest first, and those that
    ended minutes ago. Raises SlurmError.
    """
    told = ""
    for first in range(0, len(names), MOST_NAMES) if names else (None,):
        named = [] if first is None else [f"--name={','.join(names[first : first + MOST_NAMES])}"]
        told += run_slurm("squeue", "--me", "--noheader", "--states=all", *named, "--format=%A|%j|%T|%N|%r")
    lines = (line.strip().split("|", 4) for line in told.splitlines() if JOB_LINE.match(line.strip()))
    jobs = (SlurmJob(*line) for line in lines)
    return sorted((job for job in jobs if not names or job.name in names), key=lambda job: int(job.id))


def end(jobs: Sequence[SlurmJob], grace_seconds: int) -> None:
    """Cancel jobs: one that waits is gone at once; one that runs is interrupted, again after `grace_seconds`
    (see `SlurmOptions.arguments`), and after as long again ended by Slurm. Raises SlurmError.
    """
    for job in jobs:
        if job.state in WAITING:
            run_slurm("scancel", job.id)
            continue
        try:  # its time may end sooner already, and is not to be made longer
            run_slurm("scontrol", "update", f"JobId={job.id}", f"EndTime=now+{2 * grace_seconds}")
        except SlurmError as error:
            if error.silent:
                raise
        run_slurm("scancel", "--batch", "--signal=INT", job.id)


def way_out(job: SlurmJob) -> str:
    """Return what to do about a job that waits."""
    known = (out for starts, out in WAYS_OUT if job.reason.startswith(starts))
    return next(known, "`scontrol show job {id}` says more").format(id=job.id)


def said_of_end(job: SlurmJob) -> str:
    """Return how a job ended, and what to change where its limits ended it."""
    limits = {"TIMEOUT": "time_limit", "OUT_OF_MEMORY": "memory_gb"}
    fix = f"; raise {CONFIG}.{limits[job.state]}" if job.state in limits else ""
    return f"Slurm's job {job.id} on {job.node or 'no node'} ended: {job.state}, {job.reason}{fix}"
