"""What a Ray job runs: an actor on each node of one training, all placed at once, that carries out the order.

    python -m ft_dagster.launch.on_ray.driver PLACE --store URL --work FOLDER --nodes 2 --each '{"GPU": 8}'

It needs next to nothing and runs where Ray starts drivers, on the head. Its exit code is the training's; one
whose node is lost ends with 75. SIGTERM (`ray job stop`) cancels; a node that Ray drains is a preemption.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from threading import Thread
from types import FrameType
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ft_dagster.exit_codes import BAD_INPUT, CANCELLED, DONE, FAILED, TRANSIENT
from ft_dagster.launch.remote.folders import NodeDisk, add_disk
from ft_dagster.launch.remote.node import OWN, NodePart, Stopping, carry_out_order, open_store

SECONDS_BETWEEN_REASONS = 10.0  # why it still waits
OTHERS_SECONDS = 30.0  # for the other nodes to end once one has
STOP_SECONDS = 90.0  # for all of them once they were asked


class Poll(NamedTuple):
    """What a node has said since it was asked last, and its exit code once it ended."""

    lines: list[str]
    code: int | None


class NodeActor:
    """One node of a training. Its devices are those that Ray gave this actor."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._stopping = Stopping()
        self._code: int | None = None

    def meeting_point(self) -> str:
        """An address of this node at which the others can find it."""
        import socket

        with socket.socket() as free:
            free.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def node_id(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def begin(self, url: str, place: str, part: NodePart) -> None:
        def work() -> None:
            code = FAILED
            try:
                code = carry_out_order(open_store(url), place, part, self._lines.append, self._stopping)
            except Exception as error:
                self._lines.append(f"{OWN}{type(error).__name__}: {error}")
            finally:
                self._code = code

        Thread(target=work, daemon=True).start()

    def stop(self, number: int) -> None:
        self._stopping.asked = signal.Signals(number)

    def poll(self) -> Poll:
        code = self._code  # before the lines: none comes after it
        lines = list(self._lines)
        del self._lines[: len(lines)]  # more may have come meanwhile
        return Poll(lines, code)


class Nodes:
    """The actors of one training."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors
        self._ids = ray.get([actor.node_id.remote() for actor in actors])
        self.codes: dict[int, int] = {}

    def begin(self, url: str, place: str, disk: NodeDisk) -> None:
        meet = ray.get(self._actors[0].meeting_point.remote()) if len(self._actors) > 1 else None
        parts = [NodePart(disk, index, meet) for index in range(len(self._actors))]
        ray.get([a.begin.remote(url, place, part) for a, part in zip(self._actors, parts, strict=True)])

    def ask(self, number: signal.Signals) -> None:
        for index, actor in enumerate(self._actors):
            if index not in self.codes:
                actor.stop.remote(int(number))

    def poll(self) -> None:
        """Print what they say; a node that is lost has ended with 75."""
        for index, actor in enumerate(self._actors):
            if index in self.codes:
                continue
            try:
                said = ray.get(actor.poll.remote())
            except RayError as error:
                say(f"node {self._ids[index][:12]} is lost: {str(error).splitlines()[0]}")
                self.codes[index] = TRANSIENT
                continue
            for line in said.lines:
                self._show(index, line)
            if said.code is not None:
                self.codes[index] = said.code

    @property
    def ended(self) -> bool:
        return len(self.codes) == len(self._actors)

    def are_drained(self) -> bool:
        """Whether Ray is about to take one of their nodes away."""
        draining = ray._private.state.state.get_draining_nodes()
        return any(node in draining for node in self._ids)

    def _show(self, index: int, line: str) -> None:
        if len(self._actors) == 1:
            print(line, flush=True)
        elif line.startswith(OWN):
            say(f"node {index}: {line.removeprefix(OWN)}")
        else:
            print(f"[node {index}] {line}", flush=True)


def say(text: str) -> None:
    print(f"{OWN}{text}", flush=True)


def carry_out(
    url: str, place: str, disk: NodeDisk, each: dict[str, float], nodes: int, *, stopping: Stopping
) -> int:
    """Place, run and follow a training; its exit code."""
    group = placement_group([each] * nodes, strategy="STRICT_SPREAD" if nodes > 1 else "PACK")
    try:
        if not _placed(group, each, nodes, stopping):
            return CANCELLED
        actors = [_actor(group, each, index) for index in range(nodes)]
        running = Nodes(actors)
        running.begin(url, place, disk)
        code = _follow(running, stopping)
        for actor in actors:
            ray.kill(actor)
        return code
    except RayError as error:
        say(f"a node was lost before the training began: {str(error).splitlines()[0]}")
        return TRANSIENT
    finally:
        remove_placement_group(group)


def _placed(group: PlacementGroup, each: dict[str, float], nodes: int, stopping: Stopping) -> bool:
    """Wait for the nodes, saying why; False where it was stopped meanwhile."""
    told = time.monotonic() - SECONDS_BETWEEN_REASONS / 2
    while not group.wait(timeout_seconds=1):
        if stopping.asked is not None:
            return False
        if time.monotonic() - told > SECONDS_BETWEEN_REASONS:
            told = time.monotonic()
            say(f"waits for {nodes} node(s) with {_amounts(each)}: {_why(each, nodes)}")
    return True


def _why(each: dict[str, float], nodes: int) -> str:
    have = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    enough = [one for one in have if all(one.get(name, 0) >= amount for name, amount in each.items())]
    if len(enough) < nodes:
        largest = "; ".join(_amounts({name: one.get(name, 0) for name in each}) for one in have)
        return f"the cluster has {len(enough)} such node(s), its nodes are of {largest}"
    free = ray.available_resources()
    return f"others use them, free are {_amounts({name: free.get(name, 0) for name in each})}"


def _amounts(resources: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())


def _actor(group: PlacementGroup, each: dict[str, float], index: int) -> Any:
    others = {name: amount for name, amount in each.items() if name not in ("CPU", "GPU")}
    where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
    options = {"num_cpus": each.get("CPU", 0), "num_gpus": each.get("GPU", 0), "resources": others}
    return ray.remote(NodeActor).options(scheduling_strategy=where, max_restarts=0, **options).remote()


def _follow(running: Nodes, stopping: Stopping) -> int:
    """Until every node has ended, or had its time to."""
    asked: signal.Signals | None = None
    deadline = float("inf")
    while not running.ended and time.monotonic() < deadline:
        running.poll()
        if asked != signal.SIGINT and stopping.asked is not None:
            asked, deadline = signal.SIGINT, time.monotonic() + STOP_SECONDS
            running.ask(asked)
        elif asked is None and running.are_drained():
            say("a node is drained: the training is preempted")
            asked, deadline = signal.SIGTERM, time.monotonic() + STOP_SECONDS
            running.ask(asked)
        elif asked is None and any(running.codes.values()) and not running.ended:
            asked, deadline = signal.SIGTERM, time.monotonic() + OTHERS_SECONDS
            running.ask(asked)
        time.sleep(0.5)
    return cause_of(list(running.codes.values()) or [TRANSIENT])


def cause_of(codes: list[int]) -> int:
    """One code for all nodes: what one said of the input, a cancel, what a retry can mend, any failure."""
    for code in (BAD_INPUT, CANCELLED, TRANSIENT):
        if code in codes:
            return code
    return next((code for code in codes if code != DONE), DONE)


def _on_sigterm(stopping: Stopping) -> Callable[[int, FrameType | None], None]:
    def ask(number: int, _frame: FrameType | None) -> None:
        stopping.asked = signal.Signals(number)

    return ask


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ft_dagster.launch.on_ray.driver", description=__doc__)
    parser.add_argument("place", help="the folder of the store with the order")
    parser.add_argument("--store", required=True, help="a folder, or s3://bucket/prefix")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--each", type=json.loads, required=True, help="what each node gives, as JSON")
    add_disk(parser)
    given = parser.parse_args()
    stopping = Stopping()
    ray.init(log_to_driver=False, logging_level="warning")
    signal.signal(signal.SIGTERM, _on_sigterm(stopping))  # after Ray has set its own
    disk = NodeDisk.parsed(given)
    code = carry_out(given.store, given.place, disk, given.each, given.nodes, stopping=stopping)
    ray.shutdown()
    return code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
