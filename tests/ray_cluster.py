"""A real Ray cluster for tests: a head without cores and nodes that train, all on this machine."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from ft_dagster.launch.environment import environment_with
from tests.s3_server import free_port

ROOT = Path(__file__).resolve().parents[1]


class RayCluster:
    """`address`: of the head's dashboard."""

    def __init__(self, nodes: int) -> None:
        from ray.cluster_utils import Cluster

        # Of its own, so that drivers find this cluster; short, for the names of sockets are.
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
        # Ray notes there which cluster it started last, and makes the folder only where it is the cluster's.
        temporary = os.environ.get("RAY_TMPDIR", tempfile.gettempdir())
        Path(temporary, "ray").mkdir(parents=True, exist_ok=True)
        dashboard = {"include_dashboard": True, "dashboard_port": free_port(), "dashboard_host": "127.0.0.1"}
        agent = {"dashboard_agent_listen_port": free_port()}
        head = {"num_cpus": 0, "temp_dir": self._folder, **dashboard, **agent}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = f"http://{self._cluster.head_node.webui_url}"
        for _ in range(nodes):
            self.add_node()

    @property
    def head_address(self) -> str:
        """For programs that join the cluster."""
        return str(self._cluster.address)

    def add_node(self, cpus: int = 1, gpus: int = 0, **resources: float) -> Any:
        """`gpus`: as many as the node is to say that it has."""
        own = {"num_cpus": cpus, "num_gpus": gpus, "resources": resources}
        node = self._cluster.add_node(**own, temp_dir=self._folder)
        self._cluster.wait_for_nodes()
        self._wait_for_head()
        return node

    def _wait_for_head(self, seconds: float = 120) -> None:
        """Until it takes jobs."""
        from ray.job_submission import JobSubmissionClient

        deadline = time.monotonic() + seconds
        while True:
            try:
                JobSubmissionClient(self.address).list_jobs()
                return
            except (OSError, RuntimeError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def node_of(self, process: psutil.Process) -> Any:
        """The node whose worker started a process, however far above it that is."""
        above = {parent.pid for parent in process.parents()}
        return next(
            node
            for node in self._cluster.worker_nodes
            if {started.process.pid for started in node.all_processes["raylet"]} & above
        )

    def stall_node(self, node: Any, seconds: float) -> None:
        """Its raylet answers nobody for so long, and then goes on."""
        (started,) = node.all_processes["raylet"]
        raylet = psutil.Process(started.process.pid)
        raylet.suspend()
        try:
            time.sleep(seconds)
        finally:
            raylet.resume()

    def kill_node(self, node: Any) -> None:
        """SIGKILL to all that Ray runs for a node; what trains there loses its parent."""
        self._cluster.worker_nodes.remove(node)
        node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)

    def kill_head(self) -> None:
        self._cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)

    def close(self) -> None:
        """End all of it, also where the head is dead, which Ray's own shutdown would wait for."""
        for node in (*self._cluster.worker_nodes, self._cluster.head_node):
            with suppress(Exception):
                node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        shutil.rmtree(self._folder, ignore_errors=True)


def workers_that_train(folder: Path) -> list[psutil.Process]:
    """The trainers that work for a project or a run folder, by what they were told to read."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if "ft_dagster.training" in line and any(str(folder) in word for word in line):
                found.append(process)
        except psutil.Error:
            continue
    return found


@contextmanager
def ray_cluster(nodes: int) -> Iterator[RayCluster]:
    """Nodes that find this project and this Python, and none of an outer cluster."""
    given = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with environment_with(given):
        os.environ.pop("RAY_ADDRESS", None)
        cluster = RayCluster(nodes)
        try:
            yield cluster
        finally:
            cluster.close()
