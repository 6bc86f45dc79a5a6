"""Runs of an experiment side by side, in as many processes as the host has room for their trainings; each
asks for devices as any run does.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from ft_dagster.automation.experiments.experiments import (
    Experiment,
    ExperimentRun,
    Limits,
    Say,
    begin,
    carried,
    carry_out,
)
from ft_dagster.errors import UserError
from ft_dagster.exit_codes import CANCELLED
from ft_dagster.launch.leases import of_host
from ft_dagster.launch.processes import die_with_parent


def carry_out_all(
    experiment: Experiment, runs: Sequence[ExperimentRun], say: Say, limits: Limits | None = None
) -> None:
    """Carry out all runs at once; what came of each is kept when it ends, and one that fails fails alone.
    Where this host has devices for fewer trainings than there are runs, some wait for others to end.

    Raises KeyboardInterrupt, and whatever keeps the registry from being written, once the programs of all
    have ended.
    """
    if len(runs) == 1:
        carry_out(experiment, runs[0], limits)
        say_end(experiment, runs[0], say)
        return
    begin(experiment, runs)
    rooms = min(_rooms(experiment), len(runs))
    members = [_Member(experiment, runs[first::rooms], limits or Limits()) for first in range(rooms)]
    try:
        for member in members:
            member.process.start()
            member.sender.close()
        waiting: dict[Any, _Member] = {member.receiver: member for member in members}
        while waiting:
            for ready in wait(list(waiting)):
                member = waiting[ready]
                told = member.told()
                if told is None:
                    del waiting[ready]
                for run in member.finish(told):
                    say_end(experiment, run, say)
                experiment.save()
    except BaseException:
        for member in members:
            member.interrupt()
        raise


def _rooms(experiment: Experiment) -> int:
    """Return how many trainings of the variant this host has devices for at once."""
    settings, declared = experiment.settings, experiment.declared
    leases = of_host(settings.host)
    try:
        return leases.rooms(leases.ask_of(declared.key, declared.spec.resources))
    except UserError:
        return sys.maxsize  # each run says it


def say_end(experiment: Experiment, run: ExperimentRun, say: Say) -> None:
    say(f"{name_of(experiment, run)}: {run.status}{f': {run.error}' if run.status == 'failed' else ''}")


def name_of(experiment: Experiment, run: ExperimentRun) -> str:
    return f"{run.number}/{len(experiment.runs)} {run.name}"


class _Member:
    """Runs of one process, and that process."""

    def __init__(self, experiment: Experiment, runs: Sequence[ExperimentRun], limits: Limits) -> None:
        context = multiprocessing.get_context("spawn")  # the store's client may have threads
        self.left, self.log = {run.number: run for run in runs}, experiment.log
        self.receiver, self.sender = context.Pipe(duplex=False)
        given = (self.sender, experiment, list(runs), limits)
        self.process = context.Process(target=_carry, args=given)

    def told(self) -> ExperimentRun | None:
        """Return a run that has ended; None: no more is told."""
        try:
            told: ExperimentRun = self.receiver.recv()
        except EOFError:
            return None
        return told

    def finish(self, ended: ExperimentRun | None) -> list[ExperimentRun]:
        """Return the run that ended; None: the process has, and with it what was left."""
        if ended is not None:
            run = self.left.pop(ended.number)
            vars(run).update(vars(ended))
            return [run]
        self.process.join()
        for run in self.left.values():
            run.status, run.error = "failed", self._how_it_ended()
        return list(self.left.values())

    def _how_it_ended(self) -> str:
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


def _carry(sender: Connection, experiment: Experiment, runs: Sequence[ExperimentRun], limits: Limits) -> None:
    os.setpgrp()  # a terminal's Ctrl-C comes once, from the command
    die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for run in runs:
            carried(experiment, run, limits)
            sender.send(run)
    except KeyboardInterrupt:
        sys.exit(CANCELLED)
