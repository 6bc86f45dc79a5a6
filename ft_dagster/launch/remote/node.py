"""The side of a node: carry out an order, keep in the store what is whole, leave nothing on the node.

    python -m ft_dagster.launch.remote.node PLACE --store s3://bucket/prefix --work FOLDER

SIGTERM is a preemption: the program saves a checkpoint, which is kept, and ends with 75. SIGINT is a cancel.
The exit code is the program's. What it says is on standard output, its lines and its messages for Dagster
(see `relay`). FT_DAGSTER_NODE_STORE_OPTIONS: options of the store, as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO, TypeVar

from ft_dagster.errors import UserError
from ft_dagster.exit_codes import BAD_INPUT, CANCELLED, TRANSIENT
from ft_dagster.launch.launcher import OFFLINE, OUTPUT, RESULT_FILE, RUN_FILE, Say
from ft_dagster.launch.local import StartedProgram, start_program
from ft_dagster.launch.remote.folders import NodeDisk, add_disk, bring, own_folder
from ft_dagster.launch.remote.kept import Kept
from ft_dagster.launch.remote.order import CACHE, INPUTS, RUN, RemoteOrder, on_this_node, read_order
from ft_dagster.launch.remote.relay import reporting
from ft_dagster.launch.warm.choice import START
from ft_dagster.program import SCHEMA_VERSION, WITHIN, write_json
from ft_dagster.provenance.code import source_digest
from ft_dagster.store.blobs import Store
from ft_dagster.store.remote_errors import expired, refused, unreachable

OPTIONS = "FT_DAGSTER_NODE_STORE_OPTIONS"
OWN = "ft_dagster: "  # begins a line of the node's own, beside those of the program
SHARED_SECONDS = 60.0  # for a folder made on another node to be seen on this one
RENEWAL_SECONDS = 900.0  # for credentials that have run out to be renewed, while the program goes on
RENEWAL_POLL = 5.0
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
T = TypeVar("T")


@dataclass
class Stopping:
    """What somebody asks of a running program: SIGTERM, a preemption, or SIGINT, a cancel."""

    asked: signal.Signals | None = None


@dataclass(frozen=True)
class NodePart:
    """A node: its disk, and which of an attempt's nodes it is; where there are several, the first one's
    address and a port of it, at which they meet.
    """

    disk: NodeDisk
    index: int = 0
    rendezvous: str | None = None


def carry_out_order(store: Store, place: str, part: NodePart, say: Say, stopping: Stopping) -> int:
    """Run the program of the newest order to its end on this node; its exit code."""
    try:
        order = read_order(store, place)
        with ExitStack() as stack:
            own = stack.enter_context(own_folder(part.disk.work / "runs", f"{order.attempt}-{part.index}"))
            run = _run_folder(stack, order, own, part)
            kept = Kept(store, place, order, run / OUTPUT)
            folders = {RUN: run, INPUTS: own / "inputs", CACHE: part.disk.cache}
            try:
                return _carry_out(kept, folders, say, stopping, part)
            except UserError as error:
                _tell(kept, error)
                raise
    except UserError as error:
        say(f"{OWN}{error}")
        return BAD_INPUT
    except Exception as error:
        if (not_let_in := refused(error)) is not None:
            say(f"{OWN}{not_let_in}")
            return TRANSIENT  # another try may have credentials that were renewed
        if unreachable(error) or isinstance(error, FileNotFoundError):
            say(f"{OWN}the store is out of reach, or lacks what the order names: {error}")
            return TRANSIENT
        if isinstance(error, OSError) and error.errno is not None:
            say(f"{OWN}this node's disk is full, or cannot be written: {error}")
            return TRANSIENT  # another node may have room
        raise


def _run_folder(stack: ExitStack, order: RemoteOrder, own: Path, part: NodePart) -> Path:
    """Where the program leaves its output: on this node, or where all of several nodes see it."""
    shared = part.disk.shared
    if order.nodes == 1 or shared is None:
        return own / "run"
    if part.index == 0:
        return stack.enter_context(own_folder(shared, order.attempt))
    folder, deadline = shared / order.attempt, time.monotonic() + SHARED_SECONDS
    while not folder.is_dir():
        if time.monotonic() > deadline:
            raise UserError(
                "what the first node made in it is not seen on another",
                field="cluster.shared_folder",
                value=str(shared),
                fix="Name a folder of a file system that all nodes have mounted under this path",
            )
        time.sleep(0.2)
    return folder


def _carry_out(kept: Kept, folders: dict[Path, Path], say: Say, stopping: Stopping, part: NodePart) -> int:
    order, own = kept.order, folders[INPUTS].parent
    _refuse_other_code(order)
    if part.index == 0:
        kept.fetch()
    bring(kept.store, order.inputs, folders[CACHE] / "files", folders[INPUTS], part.disk.cache_bytes)
    request = on_this_node(order.request, folders)
    if part.rendezvous is not None:
        request["launch"].update(rendezvous=part.rendezvous, node=part.index)
    write_json(own / "program" / RUN_FILE, request)
    log = own / "log.txt"
    environment = {**OFFLINE, **reporting(order.reports), **_threads(order), START: "off"}
    environment[WITHIN] = os.pathsep.join(map(str, (own, *folders.values())))
    program = start_program(order.module, own / "program", environment=environment, output=log)
    let_in = _LetIn(say, stopping)
    keep = (lambda: let_in(kept.keep)) if part.index == 0 else None
    try:
        with log.open("rb") as lines:
            code = _follow(program, _Lines(lines, say), keep, stopping)
    except BaseException:
        program.cancel()
        raise
    finally:
        program.close()
    if keep is not None and keep():
        let_in(lambda: kept.finish(code))
    return code


@dataclass
class _LetIn:
    """Calls of the storage, over a profile's temporary credentials that have run out. `since`: when it first
    refused since it last let in, by this process' clock.
    """

    say: Say
    stopping: Stopping
    since: float | None = None

    def __call__(self, call: Callable[[], T]) -> T:
        """What `call` returns, called again until the credentials are renewed; raises a while after the first
        refusal, of this call or of one before it, and once a cancel is asked for.
        """
        while True:
            try:
                result = call()
            except Exception as error:
                if not _may_be_renewed(error):
                    raise
                now, told = time.monotonic(), self.since is not None
                self.since = now if self.since is None else self.since
                if now - self.since >= RENEWAL_SECONDS or self.stopping.asked == signal.SIGINT:
                    raise
                if not told:
                    wait = f"they are waited for, for {RENEWAL_SECONDS / 60:.0f} minutes at most"
                    self.say(f"{OWN}nothing is kept before credentials are renewed, {wait}: {refused(error)}")
                time.sleep(RENEWAL_POLL)
            else:
                if self.since is not None:
                    self.say(f"{OWN}the storage lets in again, and what was made meanwhile is kept")
                self.since = None
                return result


def _may_be_renewed(error: Exception) -> bool:
    """Credentials of the environment stay as they are while this process lives."""
    return expired(error) and not os.environ.get("AWS_SESSION_TOKEN")


def _follow(
    program: StartedProgram, lines: _Lines, keep: Callable[[], bool] | None, stopping: Stopping
) -> int:
    """Until the program has ended, passing on what it says and keeping what is whole."""
    asked, keeping = None, Future[bool]()
    keeping.set_result(True)
    with ThreadPoolExecutor(1) as pool:
        while (code := program.wait(1.0)) is None:
            lines.pass_on()
            if stopping.asked == signal.SIGINT or not _still_ours(keeping, lines.say):
                program.cancel()
                lines.pass_on()
                return CANCELLED if stopping.asked == signal.SIGINT else TRANSIENT
            if stopping.asked is not None and asked is None:
                asked = stopping.asked
                program.preempt()
            if keep is not None and keeping.done():
                keeping = pool.submit(keep)
        lines.pass_on()
    return code


def _still_ours(keeping: Future[bool], say: Say) -> bool:
    """False once a newer attempt has taken over; a store that is out of reach is waited for."""
    if not keeping.done():
        return True
    try:
        return keeping.result()
    except Exception as error:
        if not unreachable(error):
            raise
        say(f"{OWN}a checkpoint is not kept yet, for the store is out of reach: {error}")
        return True


class _Lines:
    """The lines that are added to a file."""

    def __init__(self, file: BinaryIO, say: Say) -> None:
        self.say = say
        self._file = file
        self._rest = b""

    def pass_on(self) -> None:
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in whole:
            self.say(line.decode("utf-8", "replace"))


def _threads(order: RemoteOrder) -> dict[str, str]:
    return {} if order.threads is None else dict.fromkeys(THREADS, str(order.threads))


def _refuse_other_code(order: RemoteOrder) -> None:
    here = source_digest()
    if here != order.code:
        raise UserError(
            f"this node has another ft-dagster ({here[:12]}) than the one that planned the training",
            value=order.code[:12],
            fix="Install the same version on the nodes and where the code location runs",
        )


def _tell(kept: Kept, error: UserError) -> None:
    """Leave a mistake where the program would have left it."""
    result = {"schema_version": SCHEMA_VERSION, "error": error.as_dict()}
    write_json(kept.output / RESULT_FILE, result)
    kept.finish(BAD_INPUT)


def stopped_by_signals(stopping: Stopping) -> None:
    """Let SIGTERM and SIGINT of this process ask for it; the first one counts, but a cancel always."""

    def ask(number: int, _frame: FrameType | None) -> None:
        if stopping.asked is None or number == signal.SIGINT:
            stopping.asked = signal.Signals(number)

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)


def open_store(url: str) -> Store:
    """The store, with the options that this process' environment has for it."""
    options: dict[str, object] = json.loads(os.environ.get(OPTIONS) or "{}")
    return Store(url, options)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m ft_dagster.launch.remote.node", description=__doc__)
    parser.add_argument("place", help="the folder of the store with the order")
    parser.add_argument("--store", required=True, help="a folder, or s3://bucket/prefix")
    add_disk(parser)
    given = parser.parse_args()
    stopping, part = Stopping(), NodePart(NodeDisk.parsed(given))
    stopped_by_signals(stopping)
    return carry_out_order(
        open_store(given.store), given.place, part, lambda line: print(line, flush=True), stopping
    )


if __name__ == "__main__":
    sys.exit(main())
