"""Trains the member of RUN_DIR/run.json: `python -m ft_dagster.training RUN_DIR`.

Exit: 0 done; 2 bad input, never to be retried; 75 preempted (SIGTERM), or out of memory with a smaller
micro-batch left to try: to be retried; 130 cancelled (SIGINT); 1 a failure nobody foresaw.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import traceback
import warnings
from functools import cache
from pathlib import Path

from ft_dagster.errors import UserError
from ft_dagster.exit_codes import BAD_INPUT, DONE, FAILED, PREEMPTED
from ft_dagster.program import SCHEMA_VERSION, keep_freed_memory, leave, write_json
from ft_dagster.training import checkpoints, numerics, ranks
from ft_dagster.training.contract import (
    RESULT_FILE,
    Member,
    TrainingResult,
    TrainingRun,
    read_run,
    recipe_digest,
)
from ft_dagster.training.failures import explained_failure, out_of_memory
from ft_dagster.training.oom_retry import OUT_OF_MEMORY, can_halve
from ft_dagster.training.progress import Channel, open_channel
from ft_dagster.training.stop_signals import STATUS, Stop, Stopped


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ft_dagster.training", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="folder with run.json")
    folder = parser.parse_args(arguments).run_dir
    stop = Stop()
    try:
        with stop.handling():
            return _train(folder, stop)
    except Stopped as stopped:
        return stopped.code
    except UserError as error:
        print(error, file=sys.stderr)
        write_json(folder / RESULT_FILE, {"schema_version": SCHEMA_VERSION, "error": error.as_dict()})
        return BAD_INPUT


def _train(folder: Path, stop: Stop) -> int:
    run = read_run(folder)
    if ranks.to_be_started(run.launch):
        return ranks.start(run, folder, main)
    _take_device()
    with open_channel() as channel:
        return train_run(run, channel, stop)


def _take_device() -> None:
    """Hold the lease before anything touches the device, keep libraries offline and quiet."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    numerics.set_cublas_workspace()
    if os.environ.get("FT_DAGSTER_LEASE"):
        from ft_dagster.launch.leases import hold_as_rank

        hold_as_rank()
    warnings.filterwarnings("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def train_run(run: TrainingRun, channel: Channel, stop: Stop) -> int:
    """Train the member, its result written whatever happens; the exit code."""
    (member,) = run.members
    try:
        code = _train_one(run, member, channel, stop)
    except Stopped as stopped:
        status = STATUS[stopped.code]
        _write(run, member, status)
        channel.say(f"{member.variant}: {status}")
        return stopped.code
    ranks.leave()
    return code


def _train_one(run: TrainingRun, member: Member, channel: Channel, stop: Stop) -> int:
    from ft_dagster.training.trainer import train_member

    _freeze_imports()
    if ranks.is_done(run, member):
        channel.say(f"{member.variant}: already trained, kept")
        return DONE
    if ranks.is_first():
        member.result.unlink(missing_ok=True)
    try:
        member.output.mkdir(parents=True, exist_ok=True)
        _set_up_device(member)
        train_member(run, member, channel, stop)
        return DONE
    except UserError as error:
        return _failed(run, member, error)
    except Exception as error:
        stop.check()
        known = explained_failure(error, member)
        if known and ranks.is_first():
            checkpoints.discard_unfinished(member.checkpoints)
        if known and out_of_memory(error) and can_halve(member):
            _failed(run, member, known, OUT_OF_MEMORY)
            return PREEMPTED
        if known:
            return _failed(run, member, known)
        traceback.print_exc()
        if ranks.world() == 1:  # else it may only be that another rank is gone
            problem = UserError(f"{type(error).__name__}: {error}", fix="See the traceback in the log")
            _write(run, member, "failed", problem)
        return FAILED


@cache
def _freeze_imports() -> None:
    """Keep what was imported: accelerate looks for garbage, and would look through all of it."""
    gc.freeze()


def _set_up_device(member: Member) -> None:
    import torch

    if member.plan.device.kind == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # accelerate imports deepspeed, which else warns
        keep_freed_memory()
    elif not torch.cuda.is_available():
        raise UserError(
            "asks for a GPU, and torch sees none here",
            field="device.kind",
            value="cuda",
            fix="Run it on a host with a GPU, or let the plan choose the CPU",
        )
    else:
        numerics.set_numerics(deterministic=member.plan.training.deterministic)


def _failed(run: TrainingRun, member: Member, error: UserError, reason: str | None = None) -> int:
    print(f"{member.variant}: {error}", file=sys.stderr)
    _write(run, member, "failed", error, reason)
    return BAD_INPUT


def _write(
    run: TrainingRun, member: Member, status: str, error: UserError | None = None, reason: str | None = None
) -> None:
    ranks.report(
        member,
        TrainingResult.model_validate(
            {
                "variant": member.variant,
                "status": status,
                "recipe": recipe_digest(run, member),
                "error": error.as_dict() if error else None,
                "reason": reason,
            }
        ),
    )


if __name__ == "__main__":
    code = main()
    ranks.end(code)
    leave(code)
