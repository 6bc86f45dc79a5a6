"""Runs experiments: the stages, in this process, for changed declarations of one variant.

What a run makes lies under the variant by its key, so that equal stages are shared and a winner, once it is
declared, is found again. Heads of an experiment lie apart, in `experiments/<id>/<run>/heads/`: the variant's
own heads, its releases, its history in Dagster and its queue are left alone. Runs are compared by questions
that judge nothing (`questions.OwnTask.choosing`), so that none is a try of the variant.
"""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypedDict

from ft_dagster.errors import UserError
from ft_dagster.launch.launcher import OUTPUT, RESULT_FILE
from ft_dagster.launch.locks import EXCLUSIVE, lock, unlock
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.schema_version import refuse_newer
from ft_dagster.settings import Settings
from ft_dagster.spec import Declared
from ft_dagster.stage_entries import DECLARATION, EVALUATION, FINE_TUNED_MODEL, TRAINING_PLAN
from ft_dagster.stages.chain import ChainOutcome, run_chain, up_to
from ft_dagster.stages.declaration import freeze
from ft_dagster.store import Artifact, Store, read_head
from ft_dagster.training.contract import read_result
from ft_dagster.training.journal import log_lines
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.workspace.questions import CHOOSING
from ft_dagster.workspace.workspace import RunOf, Trial, Workspace

SCHEMA_VERSION = 1
JUDGED, PLANNED, TRAINED = (
    up_to(name) for name in (EVALUATION.name, TRAINING_PLAN.name, FINE_TUNED_MODEL.name)
)
Status = Literal["waiting", "running", "done", "stopped early", "failed"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    """Limits a training: evaluation -> validation loss above which it gives up. `on`: how many examples
    (None: all).
    """

    losses: Mapping[int, float] = field(default_factory=dict)
    on: int | None = None


class RunFigures(TypedDict, total=False):
    """Holds what runs are compared by; of one that was stopped early or failed, what its training spent.

    `method`: as the plan has it; `rules`: of the verdict; `gate`: whether it passed; `flops`: torch's count
    of the steps made, None where it cannot count the architecture; `training_seconds`: of the optimizer
    steps alone, over all resumptions.
    """

    method: dict[str, object]
    learning_rate: float
    steps: int
    flops: float | None
    training_seconds: float
    peak_memory_bytes: int
    trainable_parameters: int
    size_bytes: int
    validation_loss_first: float | None
    validation_loss_best: float | None
    validation_loss_on: dict[str, float]
    rules: list[dict[str, object]]
    gate: bool


@dataclass
class ExperimentRun:
    """Is one run of an experiment, as the registry keeps it.

    `curve`: validation loss at each evaluation; `curves`: the same on the first n examples of its sample
    (by n). `dropped`: declared values that do not apply to this run. `figures`: empty until it has trained.
    """

    number: int
    name: str
    overrides: dict[str, object]
    dropped: list[str] = field(default_factory=list)
    status: Status = "waiting"
    error: str | None = None
    figures: RunFigures = field(default_factory=RunFigures)
    curve: list[float | None] = field(default_factory=list)
    curves: dict[str, list[float | None]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Say whether the run has finished; a failed one is tried again by the next command."""
        return self.status in ("done", "stopped early")


@dataclass
class Experiment:
    """Holds what a command tries, and what came of it: `experiments/<id>.json` beside the variant's
    artifacts.
    """

    settings: Settings
    declared: Declared
    id: str
    arguments: Mapping[str, object]
    runs: list[ExperimentRun]

    @property
    def store(self) -> Store:
        return self.settings.open_store()

    @property
    def folder(self) -> str:
        key = self.declared.key
        return f"tenants/{key.tenant}/{key.variant}/experiments/{self.id}"

    @property
    def log(self) -> Path:
        """Return where the output of Dagster and of the programs goes."""
        return self.settings.work_folder / "experiments" / f"{self.declared.key}.log"

    @property
    def runs_json(self) -> list[dict[str, Any]]:
        return [asdict(run) for run in self.runs]

    def as_dict(self) -> dict[str, object]:
        return {
            "schema_version": SCHEMA_VERSION,
            "id": self.id,
            "variant": str(self.declared.key),
            "arguments": self.arguments,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "runs": self.runs_json,
        }

    def save(self) -> None:
        self.store.write_json(f"{self.folder}.json", self.as_dict())

    def head(self, label: str, stage: str) -> Artifact | None:
        """Return the artifact that a run of this experiment made or found for a stage."""
        return read_head(self.store, f"{self.folder}/{label}", stage)


@contextmanager
def open_experiment(
    settings: Settings,
    declared: Declared,
    kind: str,
    arguments: Mapping[str, object],
    runs: Sequence[ExperimentRun],
) -> Iterator[Experiment]:
    """Open the experiment of these arguments, as far as it has come; `runs` where it is new.

    Its id covers the declaration with the fingerprints of sources and tasks, and the arguments. Raises
    UserError where another process has it open, and where there are no rows to choose by.
    """
    roots = settings.roots(declared.key.tenant)
    content = freeze(declared, settings.project, settings.cache_folder, roots)
    _refuse_without_validation(declared)
    chosen_by = {"chosen_by": CHOOSING}  # earlier experiments chose by the questions that judge: begun anew
    digest = sha256_json({"kind": kind, "declaration": content, "arguments": arguments, **chosen_by})
    experiment = Experiment(settings, declared, f"{kind}-{digest[:8]}", arguments, list(runs))
    lock_file = settings.work_folder / "locks" / experiment.id
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    held = lock(lock_file, EXCLUSIVE)
    if held is None:
        raise UserError(f"{experiment.id} is running already", file=lock_file, fix="Wait for it, or end it")
    try:
        _recall(experiment)
        experiment.save()
        yield experiment
    finally:
        unlock(held)


def _recall(experiment: Experiment) -> None:
    try:
        known = experiment.store.read_json(f"{experiment.folder}.json")
    except FileNotFoundError:
        return
    file = experiment.store.uri(f"{experiment.folder}.json")
    refuse_newer(known["schema_version"], SCHEMA_VERSION, file=file)
    experiment.runs = [ExperimentRun(**run) for run in known["runs"]]


def carry_out(experiment: Experiment, run: ExperimentRun, limits: Limits | None = None) -> None:
    """Take a run from its declaration to its evaluation; what came of it is in the run and the registry."""
    begin(experiment, [run])
    carried(experiment, run, limits or Limits())
    experiment.save()


def begin(experiment: Experiment, runs: Sequence[ExperimentRun]) -> None:
    """Let the registry say that these are running."""
    for run in runs:
        run.status, run.error = "running", None
    experiment.save()


def carried(experiment: Experiment, run: ExperimentRun, limits: Limits) -> None:
    """Carry out a run with nothing said to the registry: what came of it is in the run. A defect fails this
    run and no other. Raises KeyboardInterrupt.
    """
    try:
        workspace = workspace_of(experiment, str(run.number), run.overrides, limits)
        _tell(experiment, run, run_chain(workspace, JUDGED))
    except Exception as error:
        traceback.print_exc()  # into the experiment's log
        run.status, run.error = "failed", f"{type(error).__name__}: {error}. See {experiment.log}"


def _tell(experiment: Experiment, run: ExperimentRun, outcome: ChainOutcome) -> None:
    """Write into the run what came of it."""
    label = str(run.number)
    run.error = outcome.error
    if EVALUATION.name in outcome.made:  # a gate that does not hold is a finding, not a failure
        run.status, run.error = "done", None
        run.figures = _figures(experiment, label)
    elif outcome.stopped is not None:
        run.status = "stopped early"
        run.curve, run.curves = _curves(outcome.stopped / OUTPUT / "evidence")
        run.figures = spent_by(outcome.stopped)
        shutil.rmtree(outcome.stopped)
    tuned = experiment.head(label, FINE_TUNED_MODEL.name) if FINE_TUNED_MODEL.name in outcome.made else None
    if not run.finished:
        run.status = "failed"
        run.figures = _spent_before_failing(tuned, outcome.broken) or run.figures
    if tuned is not None:
        with tuned.held(experiment.store, experiment.settings.cache_folder) as folder:
            run.curve, run.curves = _curves(folder / "evidence")
    run.digests = {
        stage: head.digest
        for stage in (DECLARATION.name, TRAINING_PLAN.name, FINE_TUNED_MODEL.name, EVALUATION.name)
        if stage in outcome.made and (head := experiment.head(label, stage))
    }


def workspace_of(
    experiment: Experiment, label: str, overrides: Mapping[str, Any], limits: Limits = Limits()
) -> Workspace:
    """Return where a run of the experiment works: heads of its own, the variant's part of the store."""
    heads = f"{experiment.id}/{label}"
    trial = Trial(heads, experiment.declared, dict(overrides), dict(limits.losses), limits.on)
    run = RunOf(f"{experiment.id}/{label}", "experiment", log)
    return Workspace(experiment.settings, experiment.declared.key, run, trial)


def log(line: str) -> None:
    print(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}", flush=True)


def _figures(experiment: Experiment, label: str) -> RunFigures:
    plan, tuned, judged = (
        experiment.head(label, stage)
        for stage in (TRAINING_PLAN.name, FINE_TUNED_MODEL.name, EVALUATION.name)
    )
    if plan is None or tuned is None or judged is None:
        raise UserError("an artifact of this run is gone", value=label, fix="Run the experiment again")
    trained, verdict = TrainingFigures.of(tuned), judged.figures["verdict"]
    return {
        "method": plan.figures["method"],
        "learning_rate": trained.learning_rate(plan.figures["training"]["learning_rate"]),
        "steps": trained.steps,
        "flops": trained.flops,
        "training_seconds": trained.training_seconds,
        "peak_memory_bytes": trained.peak_bytes,
        "trainable_parameters": trained.trainable_parameters,
        "size_bytes": tuned.size,
        "validation_loss_first": trained.validation_loss_first,
        "validation_loss_best": trained.validation_loss_best,
        "validation_loss_on": dict(trained.validation_loss_on),
        "rules": verdict["rules"],
        "gate": verdict["passed"],
    }


def spent_by(stopped: Path) -> RunFigures:
    """Return what a training that gave up spent, by its folder: a budget counts that too."""
    spent: Mapping[str, Any] = read_result(stopped / OUTPUT / RESULT_FILE).figures
    return {
        "steps": spent["steps"],
        "flops": spent.get("flops"),
        "training_seconds": spent["training_seconds"],
    }


def _spent_before_failing(tuned: Artifact | None, broken: Path | None) -> RunFigures:
    """Return what the training of a failed run spent: a whole one, or the steps that the log of one that
    failed itself has; nothing where no step was made here.
    """
    if tuned is not None:
        trained = TrainingFigures.of(tuned)
        return {
            "steps": trained.steps,
            "flops": trained.flops,
            "training_seconds": trained.training_seconds,
        }
    lines = [] if broken is None else log_lines(broken / OUTPUT / "evidence" / "log.jsonl")
    steps = [line for line in lines if "seconds" in line]
    if not steps:
        return {}
    return {
        "steps": steps[-1]["step"],
        "flops": steps[-1]["flops"],
        "training_seconds": sum(line["seconds"] for line in steps),
    }


def _curves(evidence: Path) -> tuple[list[float | None], dict[str, list[float | None]]]:
    """Return the validation losses of a training's log by the number of the evaluation, from 1; None: left
    out, or not finite. And the same on the first n examples, by n.
    """
    lines = [json.loads(line) for line in (evidence / "log.jsonl").read_text("utf-8").splitlines()]
    losses = {line["step"]: line["validation_loss"] for line in lines if "validation_loss" in line}
    parts = {line["step"]: line["validation_on"] for line in lines if "validation_on" in line}
    steps = _evaluations(lines)
    sizes = {size for part in parts.values() for size in part if size.isdigit()}
    by_size = {size: [parts.get(at, {}).get(size) for at in steps] for size in sorted(sizes, key=int)}
    return [losses.get(at) for at in steps], by_size


def _evaluations(lines: Sequence[Mapping[str, Any]]) -> list[int | None]:
    """Return the step of each evaluation up to the last; None: of one that was left out."""
    looks = [line for line in lines if "validation_loss" in line and line["step"]]
    numbered = {line["evaluation"]: line["step"] for line in looks if "evaluation" in line}
    if not numbered:  # as trainings wrote it that left none out
        return sorted({line["step"] for line in looks})
    return [numbered.get(number) for number in range(1, max(numbered) + 1)]


def _refuse_without_validation(declared: Declared) -> None:
    if not declared.spec.evaluation.task and not declared.spec.data.splits.validation:
        raise UserError(
            "an experiment chooses by the validation split, since the test split judges what it chose",
            file=declared.file,
            field="data.splits.validation",
            value=0,
            fix="Declare a share of the rows for it, 0.1 for example",
        )
