"""Runs the programs of a variant by the launcher of the installation, under leases of what they need."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from ft_dagster.launch.choice import ask_of, launcher_of
from ft_dagster.launch.launcher import Job, carry_out
from ft_dagster.launch.leases import Ask
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.planning.judging import Judges
from ft_dagster.program import TRAINING, ProgramResult
from ft_dagster.spec import VariantSpec
from ft_dagster.store.checkpoint_mirror import forget, newest_in_store
from ft_dagster.store.remote_errors import unreachable
from ft_dagster.store.training_claim import TrainingClaim
from ft_dagster.training.checkpoints import newest_good
from ft_dagster.training.contract import CHECKPOINTS
from ft_dagster.workspace.judging_devices import ask_to_judge, judges_of
from ft_dagster.workspace.kept_training import kept_training, mirrored

if TYPE_CHECKING:
    from ft_dagster.workspace.workspace import Workspace


class TrainingStopped(Exception):
    """Signals that a training of an experiment gave up: its validation loss is above the limit it was
    given.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__("stopped early: its validation loss was above the median of the runs before it")
        self.run_dir = run_dir


def run_program(
    workspace: Workspace,
    program: str,
    run_dir: Path,
    request: BaseModel,
    *,
    leased: bool,
    left_at: str = "",
    claim: TrainingClaim | None = None,
) -> ProgramResult:
    """Run a program of this package on `request`, its run.json; returns its result.json. `left_at`: of
    `left_by_nodes`. `claim`: of a training, which ends once another run took it over.

    Raises ProgramFailed, and TrainingStopped; what is raised here meanwhile cancels it.
    """
    training = program == TRAINING
    launcher = workspace.launcher or launcher_of(workspace.settings, workspace.leases)
    ask = _ask(workspace, program, request) if leased else None
    around = _training(workspace, run_dir, left_at, claim, request) if training else _plain()
    try:
        with around as (environment, attend):
            job = Job(
                program,
                run_dir,
                request,
                ask,
                environment,
                str(workspace.key),
                workspace.settings.store_profiles.of(workspace.key.tenant),
                left_at,
            )
            result = carry_out(launcher, job, workspace.run.say, attend)
    except ProgramFailed as failure:
        if training:
            failure.kept, failure.training = _kept(workspace, run_dir, left_at), run_dir
        raise
    except Exception:
        raise
    except BaseException:
        if training:
            kept = _kept(workspace, run_dir, left_at)
            workspace.run.say(f"Cancelled. Kept: {kept}. Run it again: it goes on from there")
        raise
    if result.get("status") == "stopped":
        if training and workspace.mirrors_checkpoints:
            forget(workspace.store, left_at)
        stopped = run_dir.with_name(f".stopped-{uuid.uuid4().hex[:8]}")
        raise TrainingStopped(run_dir.rename(stopped))  # out of the way of who asks for the same key
    if ask is not None and not training and workspace.device == "cuda":
        result["figures"]["devices"] = ask.count  # for what they cost
    return result


Surroundings = tuple[Mapping[str, str], Callable[[], None]]  # its environment, and what to call meanwhile


@contextmanager
def _plain() -> Iterator[Surroundings]:
    yield {}, lambda: None


@contextmanager
def _training(
    workspace: Workspace, run_dir: Path, left_at: str, claim: TrainingClaim | None, request: BaseModel
) -> Iterator[Surroundings]:
    kept = kept_training(workspace, run_dir, left_at, claim, request)
    with workspace.run.reporting() as environment, kept as attend:
        yield environment, attend


def _kept(workspace: Workspace, run_dir: Path, left_at: str) -> str:
    """Say what a training that ended early left to go on from."""
    here = _kept_here(run_dir / "output")
    if not workspace.mirrors_checkpoints:
        return here
    try:
        newest = newest_in_store(workspace.store, mirrored(left_at))
        return f"{here}; on other hosts {'nothing' if newest is None else workspace.store.uri(newest)}"
    except Exception as error:  # what led here is told
        if not (isinstance(error, OSError) or unreachable(error)):
            raise
        return f"{here}; what the store has, which is out of reach ({error})"


def _ask(workspace: Workspace, program: str, request: BaseModel) -> Ask:
    ask = ask_of(
        workspace.settings,
        workspace.leases,
        workspace.key,
        workspace.spec,
        program=program,
        run_id=workspace.run.id,
    )
    among = None if program == TRAINING else judges_of(workspace.leases, ask, workspace.dtype)
    return ask if among is None else ask_to_judge(ask, request, among, workspace.declared_in)


def judges(workspace: Workspace, spec: VariantSpec) -> Judges | None:
    """Return the GPUs that may judge what `spec` declares: of this host, or of the node that a run goes to;
    None without any. Raises UserError.
    """
    if workspace.settings.nodes(spec.resources) is not None:
        devices = workspace.trains_on(spec.resources).devices[: spec.resources.gpus]
        return Judges(devices, len(devices), 1, workspace.dtype) if workspace.device == "cuda" else None
    ask = ask_of(
        workspace.settings,
        workspace.leases,
        workspace.key,
        spec,
        program="evaluation",
        run_id=workspace.run.id,
    )
    return judges_of(workspace.leases, ask, workspace.dtype)


def _kept_here(output: Path) -> str:
    folder = output / CHECKPOINTS
    newest = newest_good(folder)
    if newest is None:
        return f"nothing, for no checkpoint verifies in {folder}"
    return f"the checkpoint of step {newest.step}, which verifies, in {newest.folder}"
