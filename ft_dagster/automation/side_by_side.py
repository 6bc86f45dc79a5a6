"""Runs of an experiment side by side, each in a process of its own that asks for devices as any run does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from ft_dagster.automation.experiments import (
    Experiment,
    ExperimentRun,
    Limits,
    Say,
    begin,
    carried,
    carry_out,
)
from ft_dagster.exit_codes import CANCELLED
from ft_dagster.launch.processes import die_with_parent


def carry_out_all(
    experiment: Experiment, runs: Sequence[ExperimentRun], say: Say, limits: Limits | None = None
) -> None:
    """As `carry_out`, all at once; what came of each is kept when it ends, and one that fails fails alone.

    Raises KeyboardInterrupt, and whatever keeps the registry from being written, once the programs of all
    have ended.
    """
    if len(runs) == 1:
        carry_out(experiment, runs[0], limits)
        say_end(experiment, runs[0], say)
        return
    begin(experiment, runs)
    members = [_Member(experiment, run, limits or Limits()) for run in runs]
    try:
        for member in members:
            member.process.start()
            member.sender.close()
        waiting: dict[Any, _Member] = {member.receiver: member for member in members}
        while waiting:
            for ready in wait(list(waiting)):
                member = waiting.pop(ready)
                member.finish()
                experiment.save()
                say_end(experiment, member.run, say)
    except BaseException:
        for member in members:
            member.interrupt()
        raise


def say_end(experiment: Experiment, run: ExperimentRun, say: Say) -> None:
    say(f"{name_of(experiment, run)}: {run.status}{f': {run.error}' if run.status == 'failed' else ''}")


def name_of(experiment: Experiment, run: ExperimentRun) -> str:
    return f"{run.number}/{len(experiment.runs)} {run.name}"


class _Member:
    """A run and its process."""

    def __init__(self, experiment: Experiment, run: ExperimentRun, limits: Limits) -> None:
        context = multiprocessing.get_context("spawn")  # the store's client may have threads
        self.run, self.log = run, experiment.log
        self.receiver, self.sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_carry, args=(self.sender, experiment, run, limits))

    def finish(self) -> None:
        try:
            vars(self.run).update(vars(self.receiver.recv()))
        except EOFError:
            self.run.status, self.run.error = "failed", self._how_it_ended()
        self.process.join()

    def _how_it_ended(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        if code < 0:
            return f"its process was ended from outside (exit code {code})"
        return f"its process ended with exit code {code}. See {self.log}"

    def interrupt(self) -> None:
        if self.process.pid is None:
            return
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGINT)
        self.process.join()


def _carry(sender: Connection, experiment: Experiment, run: ExperimentRun, limits: Limits) -> None:
    os.setpgrp()  # a terminal's Ctrl-C comes once, from the command
    die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        carried(experiment, run, limits)
    except KeyboardInterrupt:
        sys.exit(CANCELLED)
    sender.send(run)
