"""Make a model again from what its manifests recorded, in a clean store, and say whether it is the same.

Its base, corpora and the releases that it starts from are taken from the store by their digests. Its data set
is made again where its sources are still what they were (else it is taken from the store), then its mixture,
its plan and its weights, and of these the evaluation and the export (`replay_judged`), each by the very code
that made it the first time. What comes out is

    EXACT        all have the recorded digest, and each step of the training had the recorded batch
    EQUIVALENT   they have not, but each step had the recorded batch, something of the environment differs,
                 no loss and no score differs by more than CLOSE, the verdict is the same, and the export
                 behaves as the weights that were judged
    DIVERGED     otherwise: with the first stage, and of the training the first step, that differs

A training that ran out of memory is made again with half the micro-batch from its first step. Where it went
on so from a checkpoint, the steps before were laid out otherwise: of these the examples are held to the
ledger together, and it is EQUIVALENT at best.

A plan depends on what was known on its day (prices, finished trainings) and on the host. Where it comes out
otherwise that is said, and the training goes by the recorded plan.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ft_dagster.audit.answers import DIVERGED, EQUIVALENT, EXACT, ReplayAnswer, StageReplayed
from ft_dagster.audit.audit import Audit
from ft_dagster.audit.figures import read, training_figures
from ft_dagster.audit.index.artifact_records import LEDGER, STEP_LOG
from ft_dagster.audit.index.index import Indexed
from ft_dagster.audit.replay import rebuild_stage
from ft_dagster.audit.replay.kept_code import build_environment, environment_differences, unpack_code
from ft_dagster.audit.replay.recipe import REBUILT, CleanProject, ModelRecipe, lay_out, recorded_of
from ft_dagster.audit.replay.replay_judged import (
    CLOSE,
    SAME,
    code_of,
    device_of,
    is_near,
    judge_again,
    other_files,
)
from ft_dagster.errors import UserError
from ft_dagster.report.figures import counted
from ft_dagster.stage_entries import FINE_TUNED_MODEL, TASK_DATASET, TRAINING_PLAN
from ft_dagster.store import Artifact, Place, find_artifact
from ft_dagster.training.training_figures import TrainingFigures

if TYPE_CHECKING:
    from ft_dagster.training.journal import Ledger

LOSSES = ("train_loss_first", "train_loss_last", "validation_loss_best", "general_holdout_loss_last")
TAKEN = "taken from the store"
PATIENCE = 10.0  # seconds, until what a stage started has ended with it
PLANNED = "planned otherwise; the training goes by the recorded plan"
Say = Callable[[str], None]
Content = TypeVar("Content")


@dataclass(frozen=True)
class Rebuilt:
    """Holds what came out of a replay: `stages` as far as it went, and the artifact of the last of them."""

    project: CleanProject
    stages: tuple[StageReplayed, ...]
    made: Artifact


def replay(
    audit: Audit, weights: Indexed, folder: Path, say: Say = lambda line: None, *, build: bool = False
) -> ReplayAnswer:
    """Make a model again in `folder`, which is empty or absent. `build`: with the recorded libraries.

    Raises UserError: something that it was made of is gone or damaged, its code is, or that code refuses.
    """
    folder = folder.absolute()
    _make_empty(folder)
    recorded = recorded_of(audit, weights)
    parts = {**recorded.rebuilt, **recorded.judged}
    codes = {stage: code_of(audit, part) for stage, part in parts.items()}
    environment = audit.artifact(weights).predicate["environment"]
    try:
        needed = {codes[stage] for stage in REBUILT}
        paths = {code: unpack_code(audit.store, code, folder / "code") for code in needed}
        python = build_environment(folder / "python", environment, say) if build else Path(sys.executable)
        project = lay_out(audit, recorded, folder / "project")
    except OSError as error:
        fix = "Free some space there, or name another place by --keep FOLDER"
        raise UserError(f"what it needs cannot be copied: {error}", file=folder, fix=fix) from None
    _refuse_other_device(audit, recorded, project)
    again = _Again(recorded.variant, project, python, say)

    def make(stage: str) -> Artifact:
        if codes[stage] not in paths:
            paths[codes[stage]] = unpack_code(audit.store, codes[stage], folder / "code")
        return again.make(stage, codes[stage], paths)

    answer = compare(audit, recorded, _rebuild(audit, recorded, project, make))
    if answer.verdict == DIVERGED:
        return answer
    return judge_again(audit, recorded, project, answer, make)


def _make_empty(folder: Path) -> None:
    fix = "Name one that is not there yet"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be made: {error.strerror}", file=folder, fix=fix) from None
    if any(folder.iterdir()):
        raise UserError("not an empty folder", file=folder, fix=fix)


def _refuse_other_device(audit: Audit, recorded: ModelRecipe, project: CleanProject) -> None:
    """Raises UserError where the training took a kind of device that this host has not."""
    plan = read(audit, recorded.rebuilt[TRAINING_PLAN.name])
    then, here = plan.spec.get("hardware", {}).get("kind"), device_of(project)
    if then == "cuda" and here != then:
        on = plan.figures.get("on", "a GPU")
        problem, fix = "this model was trained on a GPU, and this host has none", "Replay it on such a host"
        raise UserError(problem, value=on, fix=fix)


def _rebuild(
    audit: Audit, recorded: ModelRecipe, project: CleanProject, make: Callable[[str], Artifact]
) -> Rebuilt:
    """Make the stages again, up to the first whose payload is another."""
    stages: list[StageReplayed] = []
    for stage in REBUILT:
        part = recorded.rebuilt[stage]
        code = code_of(audit, part)
        if stage == TASK_DATASET.name and project.from_dataset:
            stages.append(StageReplayed(stage, part.digest, "", code, f"{TAKEN}: {project.from_dataset}"))
            continue
        made = make(stage)
        same = made.digest == part.digest
        said = (
            SAME
            if same
            else (PLANNED if stage == TRAINING_PLAN.name else other_files(audit.artifact(part), made))
        )
        stages.append(StageReplayed(stage, part.digest, made.digest, code, said))
        if stage == TRAINING_PLAN.name and not same:
            project.point_at(project.take(audit, part))
        elif not same:
            break
    return Rebuilt(project, tuple(stages), made)


@dataclass(frozen=True)
class _Again:
    """Makes stages by kept code, each in a process of its own."""

    variant: str
    project: CleanProject
    python: Path
    say: Say

    def make(self, stage: str, code: str, paths: Mapping[str, Path]) -> Artifact:
        """Raises UserError where the code refuses, fails, or is another than was asked for."""
        self.say(f"{stage}, by code {code[:12]}")
        answer = self.project.folder / f"{stage}.json"
        command = [str(self.python), "-P", rebuild_stage.__file__, str(self.project.folder)]
        ended = self._run([*command, self.variant, stage, str(answer)], paths[code])
        try:
            found = json.loads(answer.read_text("utf-8"))
        except (OSError, ValueError):  # it was ended before it wrote it, or while it did
            found = {"error": ended}
        if "error" in found:
            fix = "Look at it with --keep FOLDER; --environment build takes the recorded libraries"
            raise UserError(f"{stage} cannot be made again: {found['error']}", value=code[:12], fix=fix)
        if found["code"] != code:
            fix = "Take what changes Python's path (a .pth file, sitecustomize) out of this environment"
            raise UserError("another code ran than the kept one", value=found["code"][:12], fix=fix)
        made = find_artifact(self.project.store, Place(found["prefix"], stage, found["key"]))
        assert made is not None
        return made

    def _run(self, command: Sequence[str], code: Path) -> str:
        """Run it to its end; its exit code and the last line of what it said."""
        last = "it said nothing"
        with subprocess.Popen(
            command,
            cwd=self.project.folder,
            env=_environment(code),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as process:
            assert process.stdout is not None
            try:
                for line in filter(None, map(str.strip, process.stdout)):
                    last = line
                    self.say(line)
            except BaseException:
                _end(process)
                raise
        return f"it ended with {process.returncode}: {last}"


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and wait for what it started, which ends with it: whoever removes their folder finds
    nobody in it.
    """
    import psutil

    with suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        psutil.wait_procs(below, timeout=PATIENCE)


def _environment(code: Path) -> dict[str, str]:
    """Return the environment without what this project's settings say, or where curves are reported; the kept
    code before all else, and what it says at once.
    """
    left_out = ("FT_DAGSTER", "DAGSTER", "WANDB_", "MLFLOW_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return {**own, "PYTHONPATH": str(code), "PYTHONUNBUFFERED": "1"}


def compare(audit: Audit, recorded: ModelRecipe, rebuilt: Rebuilt) -> ReplayAnswer:
    """Compare what was rebuilt with what was recorded. Raises UserError where the record is damaged."""
    answer = ReplayAnswer(
        recorded.variant,
        recorded.model.digest,
        EXACT,
        "the weights are the recorded ones, byte for byte",
        rebuilt.stages,
        differs=_differences(audit, recorded, rebuilt),
        folder=str(rebuilt.project.folder),
    )
    last = rebuilt.stages[-1].stage
    if last != FINE_TUNED_MODEL.name:
        return replace(answer, verdict=DIVERGED, said=f"{last} came out as another", first=last)
    answer = replace(answer, figures=_figures(audit, recorded, rebuilt))
    ledgers = _both(audit, recorded, rebuilt, LEDGER, _ledger)
    step = None if ledgers is None else _first_difference(*(ledger["batches"] for ledger in ledgers))
    had = "each step had the recorded batch"
    if ledgers is not None and step is not None:
        whole = whole_steps(*ledgers, training_figures(audit, recorded.model))
        if not whole:
            said = f"step {step} had another batch than the ledger says"
            return replace(answer, verdict=DIVERGED, said=said, first=FINE_TUNED_MODEL.name, step=step)
        had = otherwise_before(whole)
        micro_batch = {f"micro-batch of the first {counted(whole, 'step')}": ("whole", "half")}
        answer = replace(answer, differs={**answer.differs, **micro_batch})
    elif rebuilt.made.digest == recorded.model.digest:
        return answer
    losses = _both(audit, recorded, rebuilt, STEP_LOG, _losses)
    step = None if losses is None else _first_difference(*losses)
    since = f"; losses differ from step {step} on" if step else ""
    if answer.differs and all(is_near(*pair) for name, pair in answer.figures.items() if name in LOSSES):
        said = f"{had}, and no loss differs by more than {CLOSE:.0%}{since}"
        return replace(answer, verdict=EQUIVALENT, said=said, step=step)
    said = f"{had}, and the weights are others{since}"
    return replace(answer, verdict=DIVERGED, said=said, first=FINE_TUNED_MODEL.name, step=step)


def whole_steps(then: Ledger, now: Ledger, recorded: TrainingFigures) -> int:
    """Return how many steps a training made before it ran out of memory and went on from the checkpoint of
    the last of them with half the micro-batch, by its ledger and by that of one which had half of it all
    along. 0: more differs than how those steps were laid out.
    """
    pairs = list(zip_longest(then["batches"], now["batches"]))
    last = max((step for step, (one, other) in enumerate(pairs, 1) if one != other), default=0)
    resumed = [step for step in recorded.resumed_from if step >= last]
    same = all(then.get(name) == now.get(name) for name in ("records", "times"))
    return min(resumed) if recorded.micro_batch_halved and resumed and same else 0


def otherwise_before(whole: int) -> str:
    """Say what had the recorded batch of a training that had whole micro-batches for so many steps."""
    laid_out = f"its first {counted(whole, 'step')} were laid out otherwise, before memory ran out"
    return f"{laid_out}, and had the recorded examples together; each step after had the recorded batch"


def _differences(audit: Audit, recorded: ModelRecipe, rebuilt: Rebuilt) -> dict[str, tuple[Any, Any]]:
    """Return what of the environment differs, of the last stage that was made again."""
    then, now = audit.artifact(recorded.rebuilt[rebuilt.made.place.stage]), rebuilt.made
    differs = environment_differences(then.predicate["environment"], now.predicate["environment"])
    if now.place.stage == FINE_TUNED_MODEL.name:
        before = training_figures(audit, recorded.model).computed_on
        after = TrainingFigures.of(now).computed_on
        if before and before != after:
            differs["computed on"] = before, after
        plan = read(audit, recorded.rebuilt[TRAINING_PLAN.name]).figures.get("training", {})
        if not plan.get("deterministic", True):
            differs["order of sums"] = "left open by the plan", "left open by the plan"
    return differs


def _figures(audit: Audit, recorded: ModelRecipe, rebuilt: Rebuilt) -> dict[str, tuple[Any, Any]]:
    """Return the figures of the training that differ."""
    before, after = training_figures(audit, recorded.model), TrainingFigures.of(rebuilt.made)
    names = (*LOSSES, "steps", "best_step", "trained_tokens", "micro_batch_halved")
    values = {name: (getattr(before, name), getattr(after, name)) for name in names}
    return {name: pair for name, pair in values.items() if pair[0] != pair[1]}


def _both(
    audit: Audit, recorded: ModelRecipe, rebuilt: Rebuilt, name: str, read: Callable[[Path], Content]
) -> tuple[Content, Content] | None:
    """Return what a file of the training's evidence holds, recorded and rebuilt; None where retention removed
    it.
    """
    then = audit.stored.left(audit.artifact(recorded.model), name)
    if then is None:
        return None
    return read(then), read(rebuilt.project.folder / "store" / rebuilt.made.path / name)


def _first_difference(then: Sequence[Any], now: Sequence[Any]) -> int | None:
    """Return the first step (from 1) of which two trainings say something else."""
    pairs = enumerate(zip_longest(then, now), 1)
    return next((step for step, (one, other) in pairs if one != other), None)


def _ledger(file: Path) -> Ledger:
    content: Ledger = json.loads(file.read_text("utf-8"))
    return content


def _losses(log: Path) -> list[float]:
    """Return the loss of each optimizer step, in order; lines of evaluations have none."""
    lines = map(json.loads, log.read_text("utf-8").splitlines())
    return [line["loss"] for line in lines if "grad_norm" in line]


def sought(answer: ReplayAnswer) -> str:
    """Say the answer in one sentence."""
    where = f" at {answer.first}" if answer.first else ""
    rebuilt = sum(bool(stage.rebuilt) for stage in answer.stages)
    made = counted(rebuilt, "stage")
    return f"{answer.verdict}{where}: {answer.said} ({made} made again of {answer.variant})"
