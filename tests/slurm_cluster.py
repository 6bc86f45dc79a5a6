"""A real Slurm cluster for tests: munge, slurmctld and two nodes of two cores each, all on this machine."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.s3_server import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
SBIN = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
MISSING = [name for name in PROGRAMS if shutil.which(name, path=SBIN) is None]
STARTS = 60.0  # seconds
NODES, CORES, MEMORY_MIB, KILL_WAIT = ("n1", "n2"), 2, 4000, 20
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
GresTypes=gpu
ReturnToService=2
KillWait={kill_wait}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """`folder`: of its configuration, its state and its logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("state", "spool"):
            (folder / name).mkdir()
        folder.chmod(0o755)
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        host, user = socket.gethostname().partition(".")[0], subprocess.getoutput("id -un")
        lines = CONFIGURATION.format(
            folder=folder, host=host, port=free_port(), user=user, kill_wait=KILL_WAIT
        )
        node = f"NodeHostname={host} NodeAddr=127.0.0.1 CPUs={CORES} RealMemory={MEMORY_MIB}"
        for name in NODES:
            gpu = " Gres=gpu:tiny:1" if name == "n1" else ""
            lines += f"NodeName={name} Port={free_port()} {node}{gpu}\n"
        (folder / "slurm.conf").write_text(lines)
        (folder / "gres.conf").write_text("NodeName=n1 Name=gpu Type=tiny File=/dev/null\n")
        (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")

    @property
    def environment(self) -> dict[str, str]:
        """By which Slurm's commands find it."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Returns once both nodes take jobs."""
        files = {
            "key-file": "munge.key",
            "socket": "munge.socket",
            "pid-file": "munged.pid",
            "seed-file": "seed",
        }
        options = [f"--{option}={self.folder / file}" for option, file in files.items()]
        log = f"--log-file={self.folder / 'munged.log'}"
        self._start("munged", "munged", "--foreground", "--force", *options, log)
        self._wait((self.folder / "munge.socket").exists)
        self.start_controller()
        for name in NODES:
            self.start_node(name)
        self._wait(self._nodes_are_idle)

    def start_controller(self) -> None:
        self._start("slurmctld", "slurmctld", "-D")
        self._wait(lambda: "UP" in self.command("scontrol", "ping"))

    def start_node(self, name: str) -> None:
        self._start(name, "slurmd", "-D", "-N", name)

    def kill(self, program: str) -> None:
        """SIGKILL to the controller (`slurmctld`) or to a node's own program; jobs go on.

        The controller is killed once it has saved every job as it is: one that comes back without them gives
        their ids to others, and its nodes drain; one that takes a job for one that waits ends it without a
        word to its node.
        """
        if program == "slurmctld":
            self._save_jobs()
        process = self._programs.pop(program)
        process.kill()
        process.wait()

    def _save_jobs(self) -> None:
        marks = {job: f"saved-{job}-{time.monotonic_ns()}" for job in self.jobs()}
        for job, mark in marks.items():
            self.command("scontrol", "update", f"JobId={job}", f"AdminComment={mark}")
        saved = self.folder / "state/job_state"
        self._wait(lambda: not marks or all(mark.encode() in saved.read_bytes() for mark in marks.values()))

    def command(self, *command: str, script: str | None = None) -> str:
        """What a command of Slurm prints."""
        given: dict[str, Any] = {"env": {**os.environ, **self.environment}, "input": script}
        done = subprocess.run(command, capture_output=True, text=True, check=False, **given)
        return done.stdout + done.stderr

    def jobs(self) -> list[str]:
        """The ids of those that wait or run."""
        return self.command("squeue", "-h", "-o", "%i").split()

    def end_jobs(self) -> None:
        """Return once no job is left, and each node takes others: one whose jobs took long to end on a busy
        machine is drained by Slurm.
        """
        for job in self.jobs():
            self.command("scancel", "--signal=KILL", "--full", job)
            self.command("scancel", job)
        self._wait(lambda: not self.jobs())
        self._wait(self._nodes_are_idle)

    def _nodes_are_idle(self) -> bool:
        lines = [line.split() for line in self.command("sinfo", "-h", "-N", "-o", "%N %T").splitlines()]
        for name, state in lines:
            if "drain" in state or "down" in state:
                self.command("scontrol", "update", f"nodename={name}", "state=resume")
        return lines == [[name, "idle"] for name in NODES]

    def close(self) -> None:
        """End its jobs, and then all of it."""
        with suppress(AssertionError):
            self.end_jobs()
        for process in reversed(self._programs.values()):
            process.kill()
            process.wait()

    def _start(self, name: str, *command: str) -> None:
        environment = {**os.environ, **self.environment, "PATH": SBIN}
        with (self.folder / f"{name}.out").open("ab") as log:
            self._programs[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def said(self) -> str:
        """What its programs said last, and why nodes take no jobs."""
        logs = (file.read_text(errors="replace")[-2000:] for file in self.folder.glob("*.log"))
        return "".join([*logs, self.command("sinfo", "-N", "-o", "%N %T %E"), self.command("squeue")])

    def _wait(self, moment: Any) -> None:
        end = time.monotonic() + STARTS
        while not moment():
            assert time.monotonic() < end, self.said()
            time.sleep(0.2)


@contextmanager
def slurm_cluster() -> Iterator[SlurmCluster]:
    """A new cluster, until the block ends; in a short folder, for the names of sockets are."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    cluster = SlurmCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)
