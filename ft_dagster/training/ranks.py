"""Starts the processes of one training by torch's elastic agent; they agree through torch.distributed.

They are forked where this process was itself forked from one that had imported what they need (launch.warm).
With one process everything here is at once true and costs nothing.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from ft_dagster.errors import UserError
from ft_dagster.exit_codes import BAD_INPUT, CANCELLED, FAILED, PREEMPTED
from ft_dagster.launch import processes
from ft_dagster.launch.warm import forked
from ft_dagster.methods import method_of
from ft_dagster.training.contract import (
    Launch,
    Member,
    TrainingResult,
    TrainingRun,
    read_result,
    recipe_digest,
    write_result,
)
from ft_dagster.training.forked_ranks import FIRST_SIGNAL, Ends, Main, watch_rank

T = TypeVar("T")
NODES_PATIENCE = 900  # seconds that nodes wait for each other
TORCH_PATIENCE = 30.0  # seconds that torch waits for a rank after SIGTERM, unless ranks were told of more
ENDING_SECONDS = 5.0  # that a rank has to end once it has saved; less than its supervisor gives all of them
PATIENCE = 1800  # seconds that ranks wait for one that works alone, at the least
HASHED = 2e8  # bytes of a checkpoint that it hashes a second, at the least
STATES = 8  # bytes of a checkpoint of all weights over those of its base: of fp32 with two moments over bf16


def world() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Say whether this process speaks and writes for all."""
    return os.environ.get("RANK", "0") == "0"


def to_be_started(launch: Launch) -> bool:
    """Say whether this process is not one of the ranks but the one that starts them."""
    return launch.nodes * launch.ranks_per_node > 1 and "RANK" not in os.environ


def start(run: TrainingRun, folder: Path, main: Main) -> int:
    """Run `main`, the trainer, once per rank on this node; the exit code of the one that ended the others."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    ranks = run.launch.ranks_per_node
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(max(1, threads // ranks))
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(int(torch_patience()))
    config = LaunchConfig(
        min_nodes=run.launch.nodes,
        max_nodes=run.launch.nodes,
        nproc_per_node=ranks,
        run_id=run.run_id,
        **_meeting(run.launch),
        max_restarts=0,
        monitor_interval=0.5,
        start_method="fork",  # of a function
    )
    ends = Ends(ranks)
    try:
        if forked.command is None:
            elastic_launch(config, sys.executable)("-P", "-m", "ft_dagster.training", str(folder))
        else:
            elastic_launch(config, watch_rank)(main, ends, str(folder))
    except ChildFailedError as error:
        told = [(failure.exitcode, failure.timestamp) for failure in error.failures.values()]
        silent = 0 if forked.command is None else ends.silent()
        code = cause(all_ends([*told, *ends.failed()], silent, time.time()))
        if code > FIRST_SIGNAL and is_done(run, run.members[0]):
            print(f"a rank crashed on leaving ({code}), after all was written", file=sys.stderr)
            return 0
        return code
    except SignalException as error:
        return CANCELLED if error.sigval == signal.SIGINT else PREEMPTED
    return 0


def _meeting(launch: Launch) -> dict[str, object]:
    """Return where the nodes meet. Each has its place among them, so that ranks are the same in every
    attempt.
    """
    if launch.nodes == 1:
        return {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    place = {"rank": launch.node, "timeout": NODES_PATIENCE}
    return {"rdzv_backend": "static", "rdzv_endpoint": launch.rendezvous, "rdzv_configs": place}


def torch_patience() -> float:
    """Return the seconds that torch waits for a rank after SIGTERM: longer than it was told that it has to
    save.
    """
    return max(TORCH_PATIENCE, processes.grace_told(0) + ENDING_SECONDS)


def all_ends(told: list[tuple[int, float]], silent: int, now: float) -> list[tuple[int, float]]:
    """Return what is known of the ends of ranks, in order of time, with those of ranks whose watchers were
    killed.

    Torch may notice first that another rank failed because such a one is gone, and then tells of that one
    alone. But a watcher that ended only after torch's patience was killed by torch.
    """
    ends = sorted(told, key=lambda end: end[1])
    began = ends[0][1]
    lost = silent if now - began < torch_patience() / 2 else 0
    return [*ends, *[(-int(signal.SIGKILL), began)] * lost]


def cause(ends: list[tuple[int, float]]) -> int:
    """Return one code for all ranks, from its exit codes (negative: by that signal) and times, as noticed.

    When a rank ends, torch ends the others: by SIGTERM, to them a preemption, and after `torch_patience` by
    SIGKILL. So what a rank said of the input or of a cancel counts, else the signal by which one of the first
    ended.
    """
    codes = [code for code, _ in ends]
    for code in (BAD_INPUT, CANCELLED):
        if code in codes:
            return code
    first, began = ends[0]
    if first == PREEMPTED:
        return first
    signals = [-code for code, ended in ends if code < 0 and ended - began < torch_patience() / 2]
    if signal.SIGKILL in signals:  # the others abort because it is gone
        return FIRST_SIGNAL + signal.SIGKILL
    return FIRST_SIGNAL + min(signals) if signals else FAILED


def agree(decide: Callable[[], T]) -> T:
    """Return what the first rank decides, on every rank."""
    if world() == 1:
        return decide()
    import torch.distributed as dist

    box: list[Any] = [decide() if is_first() else None]
    dist.broadcast_object_list(box, src=0)
    return cast(T, box[0])


def gather(value: T) -> list[T]:
    """Return every rank's value, by rank, on every rank."""
    if world() == 1:
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value)
    return found


def wait() -> None:
    """Wait until every rank has come here."""
    if world() > 1:
        import torch.distributed as dist

        dist.barrier()


def patience(base: Path, method: str) -> int:
    """Return the seconds that a collective waits: as long as the first rank may take to hash a checkpoint.
    Those of adapters are hashed within the least. On CPUs transformers leaves torch its own half an hour.
    """
    adapter = method_of(method).freezes
    files = [] if adapter else [file for file in base.glob("*.safetensors") if file.is_file()]
    return max(PATIENCE, math.ceil(STATES * sum(file.stat().st_size for file in files) / HASHED))


def leave() -> None:
    """Close what `TrainingArguments` opened between the ranks."""
    if world() > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def end(code: int) -> None:
    """End a rank at once: libraries' threads that still run would abort it as the interpreter leaves."""
    if world() == 1:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_done(run: TrainingRun, member: Member) -> bool:
    """Say whether this very training has left its result and its payload."""
    try:
        result = read_result(member.result)
    except UserError:
        return False
    return result.status == "done" and result.recipe == recipe_digest(run, member) and member.payload.is_dir()


def report(member: Member, result: TrainingResult) -> None:
    """Write result.json for all ranks: the first one's word, but a failure that any explained stands."""
    if world() > 1:
        explained = result.status == "failed" and result.error is not None
        if not (explained or is_first()) or _failed(member):
            return
    write_result(member, result)


def _failed(member: Member) -> bool:
    try:
        return read_result(member.result).status == "failed"
    except UserError:
        return False
