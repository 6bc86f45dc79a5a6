"""Short jobs of many tenants on a few slots, some killed at random: what the leases hold.

    .venv/bin/python benchmarks/leases.py [--jobs 200] [--tenants 10] [--slots 8]

Each job is three processes as in production: a holder takes the lease and starts a supervisor, that starts a
rank. The rank sleeps 2 to 5 s. Meanwhile some are killed (SIGKILL) in one of the three and run again. A rank
checks by itself that it is alone: it binds one abstract socket per slot and per device of its tenant's quota,
names which the kernel gives to one process at a time and takes back when it dies. Prints the figures of
docs/operations.md in two to three minutes; exits 1 where something did not hold.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ft_dagster.launch.inventory import Device, Inventory
from ft_dagster.launch.leases import Ask, Leases
from ft_dagster.launch.local import Patience, run_program
from ft_dagster.launch.rank import LEASE, hold_as_rank

HERE = Path(__file__).resolve()
VICTIMS = ("holder", "supervisor", "rank")
IN_LINE = 40  # jobs that run or wait at once: four of each of ten tenants, as the queue of runs admits them
SAMPLE_SECONDS = 0.25
QUOTA = {"default": 2, "tenant-0": 1}


@dataclass(frozen=True)
class Job:
    number: int
    tenant: str
    count: int
    seconds: float
    priority: int
    victim: str | None = None  # which of its processes is killed
    after: float = 0.0  # seconds after its rank began


@dataclass
class Figures:
    """`occupancy`: share of the slots that were leased, over the moments at which somebody waited for one."""

    finished: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    samples: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def occupancy(self) -> float:
        return statistics.fmean(self.samples) if self.samples else 0.0


def plan(jobs: int, tenants: int, kills: float, seconds: tuple[float, float], seed: int) -> list[Job]:
    draw = random.Random(seed)
    planned = []
    for number in range(jobs):
        tenant = f"tenant-{number % tenants}"
        count = 2 if draw.random() < 0.2 and QUOTA.get(tenant, QUOTA["default"]) > 1 else 1
        victim = draw.choice(VICTIMS) if draw.random() < kills else None
        lasts, priority = draw.uniform(*seconds), int(draw.random() < 0.1)
        planned.append(Job(number, tenant, count, lasts, priority, victim, draw.uniform(0, lasts)))
    return planned


def run(jobs: list[Job], slots: int, folder: Path, in_line: int = IN_LINE) -> Figures:
    """Run all jobs, `in_line` of them at once; those that were killed once more, unharmed."""
    figures, left = Figures(), list(reversed(jobs))
    alive: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    leases = _leases(folder, slots)
    began = sampled = time.monotonic()
    while left or alive:
        while left and len(alive) < in_line:
            job = left.pop()
            alive[job.number] = (job, _start(job, folder, slots))
        for job, process in list(alive.values()):
            if process.poll() is None:
                _kill(job, process, folder, figures)
                continue
            del alive[job.number]
            again = _ended(job, process.returncode, folder, figures)
            if again is not None:
                left.append(again)
        if time.monotonic() - sampled > SAMPLE_SECONDS:
            sampled = time.monotonic()
            _sample(leases, slots, figures)
        time.sleep(0.02)
    figures.seconds = time.monotonic() - began
    figures.broken = [file.read_text() for file in sorted(folder.glob("broken-*"))]
    figures.broken += [f"{d.device} is {d.state}" for d in leases.table().devices if d.state != "free"]
    return figures


def _leases(folder: Path, slots: int) -> Leases:
    inventory = Inventory("cpu", tuple(Device(str(n), None, "CPU slot") for n in range(slots)))
    return Leases(folder / "locks", inventory, quota=QUOTA)


def _start(job: Job, folder: Path, slots: int) -> subprocess.Popen[bytes]:
    run_dir = folder / f"job-{job.number}"
    run_dir.mkdir(exist_ok=True)
    for said in run_dir.glob("*"):
        said.unlink()
    (run_dir / "run.json").write_text(json.dumps({**vars(job), "slots": slots}))
    modules = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": modules}
    with (folder / "output").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, HERE, "--job", run_dir], env=environment, stdout=output, stderr=output
        )


def _kill(job: Job, holder: subprocess.Popen[bytes], folder: Path, figures: Figures) -> None:
    """SIGKILL the victim once its time has come."""
    said = _read(folder / f"job-{job.number}" / "rank.json")
    mark = folder / f"job-{job.number}" / "killed"
    if job.victim is None or not said or mark.exists() or time.monotonic() < said["began"] + job.after:
        return
    mark.touch()
    figures.killed[job.victim] += 1
    pid = {"holder": holder.pid, **said}[job.victim]
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        figures.killed[job.victim] -= 1


def _ended(job: Job, code: int, folder: Path, figures: Figures) -> Job | None:
    """Note how a job ended; the same job unharmed where it was killed."""
    run_dir = folder / f"job-{job.number}"
    granted = _read(run_dir / "granted.json")
    if granted:
        figures.waits.append(granted["waited"])
    if code == 0:
        figures.finished += 1
        return None
    if (run_dir / "killed").exists():
        return Job(job.number, job.tenant, job.count, job.seconds, job.priority)
    figures.failed.append(job.number)
    return None


def _sample(leases: Leases, slots: int, figures: Figures) -> None:
    table = leases.table()
    held = Counter(d.tenant for d in table.devices if d.state != "free")
    for tenant, devices in held.items():
        if devices > QUOTA.get(tenant, QUOTA["default"]):
            figures.broken.append(f"the status shows {devices} devices of {tenant}")
    if any("host.quota" not in waiter.why for waiter in table.waiting):
        figures.samples.append(held.total() / slots)


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def job_main(run_dir: Path) -> int:
    """The holder: take the lease, run the rank under it."""
    run = json.loads((run_dir / "run.json").read_text())
    asked = time.monotonic()
    ask = Ask(
        f"{run['tenant']}.v", run["tenant"], run["count"], run["priority"], "a short job", str(run["number"])
    )
    with _leases(run_dir.parent, run["slots"]).acquire(ask) as lease:
        (run_dir / "granted.json").write_text(json.dumps({"waited": time.monotonic() - asked}))
        return run_program(HERE.stem, run_dir, lease, patience=Patience(5, 1))


def rank_main(run_dir: Path) -> int:
    """The rank: hold its share, be alone, sleep."""
    run = json.loads((run_dir / "run.json").read_text())
    hold_as_rank()
    devices, place = json.loads(os.environ[LEASE])["devices"], run_dir.parent
    bound = [bind(place, f"slot-{device}") for device in devices]
    if None in bound:
        (place / f"broken-{os.getpid()}").write_text(f"{devices} of job {run['number']} are in use already")
    quota = QUOTA.get(run["tenant"], QUOTA["default"])
    of_quota = _bind_some(place, run["tenant"], quota, len(devices))
    if len(of_quota) < len(devices):
        (place / f"broken-{os.getpid()}").write_text(f"{run['tenant']} holds more than {quota}")
    said = {"rank": os.getpid(), "supervisor": os.getppid(), "began": time.monotonic()}
    (run_dir / "rank.part").write_text(json.dumps(said))
    (run_dir / "rank.part").rename(run_dir / "rank.json")
    time.sleep(run["seconds"])
    return 0


def bind(place: Path, name: str) -> socket.socket | None:
    """The abstract socket of a name in a place, None where a living process has it."""
    holder = socket.socket(socket.AF_UNIX)
    try:
        holder.bind(f"\0{hashlib.sha256(str(place).encode()).hexdigest()[:16]}-{name}")
    except OSError:
        holder.close()
        return None
    return holder


def _bind_some(place: Path, name: str, of: int, wanted: int) -> list[socket.socket]:
    """`wanted` of the `of` sockets of a name, or as many as are free."""
    bound: list[socket.socket] = []
    for number in range(of):
        held = bind(place, f"{name}-{number}") if len(bound) < wanted else None
        bound += [] if held is None else [held]
    return bound


def report(figures: Figures, jobs: int) -> str:
    waits = sorted(figures.waits)
    late = statistics.quantiles(waits, n=20)[18]
    return "\n".join(
        [
            f"finished            {figures.finished} of {jobs}, in {figures.seconds:.0f} s",
            f"killed              {dict(figures.killed)}, each run again",
            f"over-booked, quotas {len(figures.broken)} breaches {figures.broken[:3] or ''}",
            f"failed otherwise    {figures.failed or 'none'}",
            f"waited              median {statistics.median(waits):.1f} s, "
            f"95% within {late:.1f} s, longest {waits[-1]:.1f} s",
            f"occupancy           {figures.occupancy:.1%} of the slots leased while work waited "
            f"({len(figures.samples)} samples)",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--tenants", type=int, default=10)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--kills", type=float, default=0.25, help="share of the jobs that are killed once")
    parser.add_argument("--seed", type=int, default=20240229)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job is not None:
        return job_main(given.job)
    jobs = plan(given.jobs, given.tenants, given.kills, (2.0, 5.0), given.seed)
    with tempfile.TemporaryDirectory() as folder:
        figures = run(jobs, given.slots, Path(folder))
    print(report(figures, given.jobs))
    held = not figures.broken and not figures.failed and figures.finished == given.jobs
    return 0 if held and figures.occupancy > 0.9 else 1


if __name__ == "__main__":
    sys.exit(rank_main(Path(sys.argv[1])) if LEASE in os.environ and len(sys.argv) == 2 else main())
