"""Runs of an experiment whose trainings take turns on one loaded base: one program under one lease.

Each training has its own request, folder, checkpoints and result, as if it had been alone, and the stages of
its run then take what lies there. What did not come to an end in its turn (its program was killed, memory ran
out, nobody foresaw why) is trained by its own run, from its last checkpoint.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, cast

from ft_dagster.automation.experiments.experiments import (
    PLANNED,
    Experiment,
    ExperimentRun,
    Limits,
    Say,
    carried,
    log,
    workspace_of,
)
from ft_dagster.errors import UserError
from ft_dagster.exit_codes import DONE
from ft_dagster.launch.choice import launcher_of
from ft_dagster.launch.launcher import Job, Launcher, LocalLauncher, carry_out
from ft_dagster.launch.leases import of_host
from ft_dagster.program import TRAINING, ProgramResult
from ft_dagster.stages.chain import run_chain
from ft_dagster.stages.fine_tuned_model import STAGE
from ft_dagster.store import Place, find_artifact
from ft_dagster.store.make import host_lock
from ft_dagster.store.training_claim import TrainingClaim
from ft_dagster.training.contract import TrainingRun, read_result, recipe_digest
from ft_dagster.training.methods import taught_by
from ft_dagster.workspace.kept_training import claimed_training, kept_training
from ft_dagster.workspace.workspace import Workspace

MEMORY = "training.per_device_train_batch_size"  # the field that an error names where memory ran out
Ended = Callable[[ExperimentRun], None]


def carry_out_in_turns(
    experiment: Experiment, runs: Sequence[ExperimentRun], limits: Limits, say: Say, ended: Ended
) -> None:
    """Take the runs from their declarations to their evaluations, `ended` with each; one that fails fails
    alone. Raises KeyboardInterrupt.
    """
    trained = _trained_in_turns(experiment, runs, limits, say)
    here = launcher_of(experiment.settings, of_host(experiment.settings.host))
    for run in runs:
        try:
            carried(experiment, run, limits, TakesTrained(here, trained))
        except Exception as error:  # a defect fails this run and no other
            traceback.print_exc()  # into the experiment's log
            run.status, run.error = "failed", f"{type(error).__name__}: {error}. See {experiment.log}"
        ended(run)


def _trained_in_turns(
    experiment: Experiment, runs: Sequence[ExperimentRun], limits: Limits, say: Say
) -> frozenset[str]:
    """Train runs of one base in turns and return the recipes of what was trained; where a turn breaks as a
    whole, its runs train by themselves.
    """
    trained: set[str] = set()
    try:
        waiting = [found for run in runs if (found := _waiting(experiment, run, limits))]
        for number, turn in enumerate(_of_one_base(waiting), 1):
            size = sum(
                file.stat().st_size for file in _request(turn[0].job).base.folder.glob("*.safetensors")
            )
            names = ", ".join(str(each.number) for each in turn)
            say(f"runs {names} take turns on one loaded base: its {size / 1e9:.1f} GB are read once")
            _train(experiment, f"{runs[0].number}-{number}", turn)
            trained |= {_recipe(each.job) for each in turn}
    except Exception:
        traceback.print_exc()  # into the experiment's log
    return frozenset(trained)


class WaitingTraining(NamedTuple):
    """Names the training that a run has come to, and where its artifact will be."""

    number: int
    workspace: Workspace
    place: Place
    job: Job


class _Reached(Exception):
    def __init__(self, job: Job) -> None:
        self.job = job


class _StopsThere(LocalLauncher):
    """Starts nothing: it tells the job that it is given."""

    def stage_in(self, job: Job) -> None:
        raise _Reached(job)


@dataclass(frozen=True)
class TakesTrained:
    """Runs programs as `here` does, but takes a training of these recipes that has come to its end."""

    here: Launcher[Any]
    trained: frozenset[str]

    def stage_in(self, job: Job) -> None:
        if not self._is_trained(job):
            self.here.stage_in(job)

    def start(self, job: Job, say: Say) -> Any:
        return None if self._is_trained(job) else self.here.start(job, say)

    def report(self, started: Any, say: Say) -> int | None:
        return DONE if started is None else self.here.report(started, say)

    def cancel(self, started: Any) -> None:
        if started is not None:
            self.here.cancel(started)

    def collect(self, job: Job, started: Any, exit_code: int) -> ProgramResult:
        return job.read_result(exit_code) if started is None else self.here.collect(job, started, exit_code)

    def _is_trained(self, job: Job) -> bool:
        return job.program == TRAINING and _recipe(job) in self.trained and _ended(job)


class _JobOfMembers(Job):
    """Is a job of several members, each of which leaves a result of its own."""

    def read_result(self, exit_code: int) -> ProgramResult:
        return {}


def _waiting(experiment: Experiment, run: ExperimentRun, limits: Limits) -> WaitingTraining | None:
    """Return the training that a run waits for; None: its model is there, or it does not come so far, which
    its own run will say.
    """
    workspace = workspace_of(experiment, str(run.number), run.overrides, limits)
    try:
        if run_chain(workspace, PLANNED).error is not None:
            return None
        place = workspace.recipe(STAGE)[0].place
        stopping = replace(workspace, launcher=_StopsThere(workspace.leases))
        stopping.make(STAGE)
    except _Reached as reached:
        return WaitingTraining(run.number, stopping, place, reached.job)
    except UserError:
        return None
    except Exception:
        traceback.print_exc()  # into the experiment's log
    return None


def _of_one_base(waiting: Sequence[WaitingTraining]) -> Iterator[list[WaitingTraining]]:
    """Yield those that can share a base, where there are two or more."""
    kinds: dict[tuple[Any, ...], list[WaitingTraining]] = {}
    for each in {each.place: each for each in waiting}.values():  # of runs that share a training, one
        kind = _kind(each.job)
        if kind is not None:
            kinds.setdefault(kind, []).append(each)
    yield from (turn for turn in kinds.values() if len(turn) > 1)


def _kind(job: Job) -> tuple[Any, ...] | None:
    """Return what of a training must be equal for one loaded base; None where it has one of its own: of
    `full`, which writes to it, and of several processes.
    """
    request = _request(job)
    plan = request.members[0].plan
    method = taught_by(plan.method)
    if not method.known.freezes or request.launch.nodes * request.launch.ranks_per_node > 1:
        return None
    asked = None if job.ask is None else replace(job.ask, reason="", run_id="")
    return request.base.digest, method.quantization, plan.training.precision, plan.device.kind, asked


def _train(experiment: Experiment, name: str, turn: Sequence[WaitingTraining]) -> None:
    """Train them one after another in one program; nobody else makes their artifacts meanwhile."""
    settings = experiment.settings
    run_dir = settings.work_folder / "experiments" / f"{experiment.id}-{name}"
    with ExitStack() as held:
        claims = dict[Place, TrainingClaim | None]()
        for each in sorted(turn, key=lambda each: each.place.path):
            held.enter_context(host_lock(settings.work_folder, each.place.path))
            claims[each.place] = held.enter_context(claimed_training(each.workspace, each.place))
        left = [each for each in turn if find_artifact(experiment.store, each.place) is None]
        left = [each for each in left if not _is_done(each.job)]
        if not left:
            return
        for each in left:
            each.job.write_request()
        members = tuple(_request(each.job).members[0] for each in left)
        request = _request(left[0].job).model_copy(update={"members": members})
        options = {name: getattr(left[0].job, name) for name in ("ask", "environment", "lessee", "profile")}
        together = _JobOfMembers(TRAINING, run_dir, request, **options)
        run_dir.mkdir(parents=True, exist_ok=True)
        attending = [held.enter_context(_kept(each, claims[each.place])) for each in left]
        try:
            carry_out(
                launcher_of(settings, of_host(settings.host)),
                together,
                log,
                partial(_attend_all, attending),
            )
        finally:
            shutil.rmtree(run_dir, ignore_errors=True)


def _attend_all(attending: Sequence[Callable[[], None]]) -> None:
    for attend in attending:
        attend()


def _kept(each: WaitingTraining, claim: TrainingClaim | None) -> AbstractContextManager[Callable[[], None]]:
    return kept_training(each.workspace, each.job.run_dir, each.job.left_at, claim, _request(each.job))


def _request(job: Job) -> TrainingRun:
    return cast(TrainingRun, job.request)


def _recipe(job: Job) -> str:
    request = _request(job)
    return recipe_digest(request, request.members[0])


def _is_done(job: Job) -> bool:
    """Say whether a command that was ended had it trained."""
    try:
        result = read_result(job.result_file)
    except UserError:
        return False
    payload = _request(job).members[0].payload
    return result.status == "done" and result.recipe == _recipe(job) and payload.is_dir()


def _ended(job: Job) -> bool:
    """Say whether its training has come to an end of its own: done, given up, or a fault that a field
    names.
    """
    try:
        result = read_result(job.result_file)
    except UserError:
        return False
    field = (result.error or {}).get("field")
    failed = result.status == "failed" and field is not None and field != MEMORY
    return _is_done(job) or (result.recipe == _recipe(job) and (result.status == "stopped" or failed))
