"""Places a program on nodes of the cluster that this process is in, follows it and ends it:

    python -m ft_dagster.launch.on_ray.driver RUN_DIR

RUN_DIR/placing.json says which program, on how many nodes, and what each is to give (see `launcher`). The
exit code is the program's; one whose node is lost ends with 75. SIGINT cancels; SIGTERM, and a node that Ray
drains, is a preemption: the program saves a checkpoint, and ends with 75.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any, NamedTuple

import ray
from ray.exceptions import ActorUnavailableError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ft_dagster.exit_codes import BAD_INPUT, CANCELLED, DONE, FAILED, TRANSIENT
from ft_dagster.launch.launcher import RUN_FILE
from ft_dagster.launch.local import StartedProgram, start_program
from ft_dagster.launch.on_ray.launcher import ENDS, OWN, PLACING, stop_seconds
from ft_dagster.launch.on_ray.waiting import why
from ft_dagster.program import write_json

SECONDS_BETWEEN_REASONS = 10.0  # why it still waits
UNREACHED_SECONDS = 60.0  # for which a node may be out of reach, as while a network is mended


class Poll(NamedTuple):
    """Tells what a node printed since it was asked last, and its exit code once it ended."""

    printed: bytes
    code: int | None


@dataclass
class Stopping:
    """Holds what somebody asks of the program: SIGTERM, a preemption, or SIGINT, a cancel."""

    asked: signal.Signals | None = None

    def ask(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal: the first one counts, but a cancel always."""
        if self.asked is None or number == signal.SIGINT:
            self.asked = signal.Signals(number)


class NodeActor:
    """Is one node of a program. Its devices are those that Ray gave this actor."""

    def __init__(self) -> None:
        self._program: StartedProgram | None = None
        self._code: int | None = None
        self._printed = Path()

    def meeting_point(self) -> str:
        """Return an address of this node at which the others can find it."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def node_id(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def begin(self, module: str, folder: Path, environment: dict[str, str]) -> None:
        self._printed = folder / "printed.txt"
        self._printed.unlink(missing_ok=True)
        self._program = start_program(module, folder, environment=environment, output=self._printed)
        Thread(target=self._wait, args=(self._program,), daemon=True).start()

    def _wait(self, program: StartedProgram) -> None:
        try:
            while (code := program.wait(1.0)) is None:
                pass
            self._code = code
        finally:
            program.close()
            self._code = FAILED if self._code is None else self._code

    def stop(self, number: int) -> None:
        if self._program is None or self._code is not None:
            return
        if number == signal.SIGTERM:
            self._program.preempt()
        else:
            Thread(target=self._program.cancel, daemon=True).start()

    def poll(self, read: int) -> Poll:
        """Tell what came after so many bytes: an answer that is lost is asked for again."""
        code = self._code  # before what it printed: nothing comes after it
        with self._printed.open("rb") as file:
            file.seek(read)
            return Poll(file.read(), code)


class Nodes:
    """Holds the actors of one program."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors
        self._ids = ray.get([actor.node_id.remote() for actor in actors])
        self._read = [0] * len(actors)  # bytes of what each printed
        self._heard = [time.monotonic()] * len(actors)
        self.codes: dict[int, int] = {}

    def begin(self, run_dir: Path, told: Mapping[str, Any]) -> None:
        folders = [run_dir]
        if len(self._actors) > 1:
            meet = ray.get(self._actors[0].meeting_point.remote())
            folders = [_of_node(run_dir, index, meet) for index in range(len(self._actors))]
        module, environment = told["module"], told["environment"]
        each = zip(self._actors, folders, strict=True)
        ray.get([actor.begin.remote(module, folder, environment) for actor, folder in each])

    def ask(self, number: signal.Signals) -> None:
        for index, actor in enumerate(self._actors):
            if index not in self.codes:
                actor.stop.remote(int(number))

    def poll(self) -> None:
        """Print what they print; a node that is lost, or out of reach for long, has ended with 75."""
        for index, actor in enumerate(self._actors):
            if index in self.codes:
                continue
            try:
                told = ray.get(actor.poll.remote(self._read[index]))
            except RayError as error:
                away = isinstance(error, ActorUnavailableError)  # of one that is lost Ray says that it died
                if not away or time.monotonic() - self._heard[index] > UNREACHED_SECONDS:
                    say(f"node {self._ids[index][:12]} is lost: {str(error).splitlines()[0]}")
                    self.codes[index] = TRANSIENT
                continue
            self._heard[index] = time.monotonic()
            self._read[index] += len(told.printed)
            sys.stdout.buffer.write(told.printed)
            sys.stdout.buffer.flush()
            if told.code is not None:
                self.codes[index] = told.code

    @property
    def ended(self) -> bool:
        return len(self.codes) == len(self._actors)

    def are_drained(self) -> bool:
        """Say whether Ray is about to take one of their nodes away."""
        draining = ray._private.state.state.get_draining_nodes()
        return any(node in draining for node in self._ids)


def say(text: str) -> None:
    print(f"{OWN}{text}", flush=True)


def carry_out(run_dir: Path, told: Mapping[str, Any], stopping: Stopping) -> int:
    """Place, run and follow a program; return its exit code."""
    each, nodes = told["each"], int(told["nodes"])
    group = placement_group([each] * nodes, strategy="STRICT_SPREAD" if nodes > 1 else "PACK")
    try:
        if not _placed(group, each, nodes, stopping):
            return CANCELLED if stopping.asked == signal.SIGINT else TRANSIENT
        actors = [_actor(group, each, index) for index in range(nodes)]
        running = Nodes(actors)
        running.begin(run_dir, told)
        code = _follow(running, stopping)
        for actor in actors:
            ray.kill(actor)
        return code
    except RayError as error:
        say(f"a node was lost before the program began: {str(error).splitlines()[0]}")
        return TRANSIENT
    finally:
        remove_placement_group(group)


def _of_node(run_dir: Path, index: int, meet: str) -> Path:
    """Return the run folder of one of several nodes, whose run.json says which it is."""
    folder = run_dir / f"node-{index}"
    shutil.rmtree(folder, ignore_errors=True)
    request = json.loads((run_dir / RUN_FILE).read_text("utf-8"))
    request["launch"].update(rendezvous=meet, node=index)
    write_json(folder / RUN_FILE, request)
    return folder


def _placed(group: PlacementGroup, each: dict[str, float], nodes: int, stopping: Stopping) -> bool:
    """Wait for the nodes, saying why; False where it was stopped meanwhile."""
    told = time.monotonic() - SECONDS_BETWEEN_REASONS / 2
    while not group.wait(timeout_seconds=1):
        if stopping.asked is not None:
            return False
        if time.monotonic() - told > SECONDS_BETWEEN_REASONS:
            told = time.monotonic()
            have = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            say(f"the program waits: {why(each, have, nodes)}")
    return True


def _actor(group: PlacementGroup, each: dict[str, float], index: int) -> Any:
    others = {name: amount for name, amount in each.items() if name not in ("CPU", "GPU")}
    where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
    options = {"num_cpus": each.get("CPU", 0), "num_gpus": each.get("GPU", 0), "resources": others}
    return ray.remote(NodeActor).options(scheduling_strategy=where, max_restarts=0, **options).remote()


def _follow(running: Nodes, stopping: Stopping) -> int:
    """Until every node has ended, or had its time to. Once one is lost, fails or is drained, the others save
    what they can.
    """
    asked: signal.Signals | None = None
    deadline = float("inf")
    while not running.ended and time.monotonic() < deadline:
        running.poll()
        ask = stopping.asked
        if ask is None and asked is None and running.are_drained():
            say("a node is drained: the training is preempted")
            ask = signal.SIGTERM
        if ask is None and any(running.codes.values()):
            ask = signal.SIGTERM
        if ask is not None and asked not in (ask, signal.SIGINT):
            asked, deadline = ask, time.monotonic() + stop_seconds()
            running.ask(asked)
        time.sleep(0.5)
    return cause_of(list(running.codes.values()) or [TRANSIENT])


def cause_of(codes: list[int]) -> int:
    """One code for all nodes: what one said of the input, a cancel, what a retry can mend, any failure."""
    for code in (BAD_INPUT, CANCELLED, TRANSIENT):
        if code in codes:
            return code
    return next((code for code in codes if code != DONE), DONE)


def main() -> int:
    run_dir, stopping = Path(sys.argv[1]), Stopping()
    ray.init("auto", log_to_driver=False, logging_level="warning")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stopping.ask)  # after Ray has set its own
    code = carry_out(run_dir, json.loads((run_dir / PLACING).read_text("utf-8")), stopping)
    ray.shutdown()
    return code


if __name__ == "__main__":
    code = main()
    print(f"{ENDS}{code}", flush=True)
    os._exit(code)
