"""Experiments: the asset graph, run in this process for changed declarations of one variant.

What a run makes lies under the variant by its key, so that equal stages are shared and a winner, once it is
declared, is found again. Heads of an experiment lie apart, in `experiments/<id>/<run>/heads/`: the variant's
own heads, its releases, its history in Dagster and its queue are left alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import dagster as dg

from ft_dagster.assets.bench import EXPERIMENT, OVERRIDES, PARTITIONS, RIVALS, STOPPED
from ft_dagster.assets.data import frozen_declaration
from ft_dagster.automation.instance import failure_of
from ft_dagster.automation.jobs import CHAIN
from ft_dagster.automation.tags import variant_tags
from ft_dagster.errors import UserError
from ft_dagster.launch.locks import EXCLUSIVE, lock, unlock
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.resources.artifacts import ArtifactStore
from ft_dagster.resources.gpus import Gpus
from ft_dagster.resources.launchers import LocalLauncher
from ft_dagster.resources.tenants import Tenants
from ft_dagster.settings import Settings
from ft_dagster.spec import Declared
from ft_dagster.store import Artifact, Store, read_head

SCHEMA_VERSION = 1
INTERRUPTED = "DagsterExecutionInterruptedError"
JUDGED = CHAIN[: [asset.key.path[-1] for asset in CHAIN].index("evaluation") + 1]
PLANNED = CHAIN[: [asset.key.path[-1] for asset in CHAIN].index("training_plan") + 1]
TRAINED = CHAIN[: [asset.key.path[-1] for asset in CHAIN].index("fine_tuned_model") + 1]
Status = Literal["waiting", "running", "done", "stopped early", "failed"]
Say = Callable[[str], None]


@dataclass
class Run:
    """One run of an experiment, as the registry keeps it.

    `curve`: validation loss at each evaluation. `dropped`: declared values that do not apply to this run.
    `figures`: see `_figures`; empty until the run is done.
    """

    number: int
    name: str
    overrides: dict[str, Any]
    dropped: list[str] = field(default_factory=list)
    status: Status = "waiting"
    error: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """A failed run is tried again by the next command."""
        return self.status in ("done", "stopped early")


@dataclass
class Experiment:
    """What a command tries, and what came of it: `experiments/<id>.json` beside the variant's artifacts."""

    settings: Settings
    declared: Declared
    id: str
    arguments: dict[str, Any]
    runs: list[Run]

    @property
    def store(self) -> Store:
        return self.settings.open_store()

    @property
    def folder(self) -> str:
        key = self.declared.key
        return f"tenants/{key.tenant}/{key.variant}/experiments/{self.id}"

    @property
    def log(self) -> Path:
        """Where the output of Dagster and of the programs goes."""
        return self.settings.work_folder / "experiments" / f"{self.declared.key}.log"

    def as_dict(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "id": self.id,
            "variant": str(self.declared.key),
            "arguments": self.arguments,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "runs": [asdict(run) for run in self.runs],
        }

    def save(self) -> None:
        self.store.write_json(f"{self.folder}.json", self.as_dict())

    def head(self, label: str, stage: str) -> Artifact | None:
        """The artifact that a run of this experiment made or found for a stage."""
        return read_head(self.store, f"{self.folder}/{label}", stage)


@dataclass(frozen=True)
class Outcome:
    """`error`: why the graph did not get to its end. `stopped`: the folder of a training that gave up."""

    made: frozenset[str]
    error: str | None
    stopped: Path | None


@contextmanager
def opened(
    settings: Settings, declared: Declared, kind: str, arguments: dict[str, Any], runs: Sequence[Run]
) -> Iterator[Experiment]:
    """The experiment of these arguments, as far as it has come; `runs` where it is new.

    Its id covers the declaration with the fingerprints of sources and tasks, and the arguments. Raises
    UserError where another process has it open.
    """
    content = frozen_declaration(declared, settings.project, settings.cache_folder)
    digest = sha256_json({"kind": kind, "declaration": content, "arguments": arguments})
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
    if known["schema_version"] > SCHEMA_VERSION:
        raise UserError(
            "written by a newer ft-dagster",
            file=experiment.store.uri(f"{experiment.folder}.json"),
            field="schema_version",
            value=known["schema_version"],
            fix=f"Upgrade ft-dagster (this one reads up to {SCHEMA_VERSION})",
        )
    experiment.runs = [Run(**run) for run in known["runs"]]


def carry_out(experiment: Experiment, run: Run, rivals: Mapping[int, float] | None = None) -> None:
    """Take a run from its declaration to its evaluation; what came of it is in the run and the registry."""
    run.status, run.error = "running", None
    experiment.save()
    label = str(run.number)
    outcome = materialize(experiment, label, run.overrides, JUDGED, rivals)
    run.error = outcome.error
    if "evaluation" in outcome.made:  # a gate that does not hold is a finding, not a failure
        run.status, run.error = "done", None
        run.figures = _figures(experiment, label)
    elif outcome.stopped is not None:
        run.status = "stopped early"
        run.curve = _curve(outcome.stopped / "output" / "evidence")
        shutil.rmtree(outcome.stopped)
    else:
        run.status = "failed"
    tuned = experiment.head(label, "fine_tuned_model") if "fine_tuned_model" in outcome.made else None
    if tuned is not None:
        run.curve = _curve(tuned.folder(experiment.store, experiment.settings.cache_folder) / "evidence")
    run.digests = {
        stage: head.digest
        for stage in ("declaration", "training_plan", "fine_tuned_model", "evaluation")
        if stage in outcome.made and (head := experiment.head(label, stage))
    }
    experiment.save()


def materialize(
    experiment: Experiment,
    label: str,
    overrides: Mapping[str, Any],
    assets: Sequence[dg.AssetsDefinition],
    rivals: Mapping[int, float] | None = None,
) -> Outcome:
    """Materialize assets of the variant with an instance of their own. Raises KeyboardInterrupt."""
    project, key = str(experiment.settings.project), experiment.declared.key
    gpus = Gpus(project=project)
    resources = {
        "tenants": Tenants(project=project),
        "artifacts": ArtifactStore(project=project),
        "gpus": gpus,
        "launcher": LocalLauncher(gpus=gpus),
    }
    tags = variant_tags(key, "experiment") | {
        EXPERIMENT: f"{experiment.id}/{label}",
        OVERRIDES: json.dumps(dict(overrides)),
        RIVALS: json.dumps(dict(rivals or {})),
    }
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(PARTITIONS, [str(key)])
        result = dg.materialize(
            assets, partition_key=str(key), instance=instance, resources=resources, tags=tags,
            raise_on_error=False,
        )  # fmt: skip
        error = None if result.success else failure_of(instance, result.run_id)
    made = {
        event.step_materialization_data.materialization.asset_key.path[-1]
        for event in result.all_events
        if event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION
    }
    return Outcome(frozenset(made), error, _stopped(result))


def _stopped(result: dg.ExecuteInProcessResult) -> Path | None:
    """The run folder of a training that gave up. An interrupt, which Dagster took for a failure, goes on."""
    for event in result.all_events:
        if event.event_type != dg.DagsterEventType.STEP_FAILURE:
            continue
        failure = event.step_failure_data
        if failure.error is not None and failure.error.cls_name == INTERRUPTED:
            raise KeyboardInterrupt
        said = failure.user_failure_data
        if said is not None and said.metadata and STOPPED in said.metadata:
            return Path(str(said.metadata[STOPPED].value))
    return None


def _figures(experiment: Experiment, label: str) -> dict[str, Any]:
    """What runs are compared by. `flops`: torch's count of the steps made, None where it cannot count the
    architecture; `training_seconds`: of the optimizer steps alone, over all resumptions.
    """
    plan, tuned, judged = (
        experiment.head(label, stage) for stage in ("training_plan", "fine_tuned_model", "evaluation")
    )
    if plan is None or tuned is None or judged is None:
        raise UserError("an artifact of this run is gone", value=label, fix="Run the experiment again")
    trained, verdict = tuned.figures, judged.figures["verdict"]
    return {
        "method": plan.figures["method"],
        "learning_rate": plan.figures["training"]["learning_rate"],
        "steps": trained["steps"],
        "flops": trained.get("flops"),  # not in those of an older version
        "training_seconds": trained["training_seconds"],
        "peak_memory_bytes": trained["peak_device_memory_bytes"] or trained["peak_memory_bytes"],
        "trainable_parameters": trained["trainable_parameters"],
        "size_bytes": tuned.size,
        "validation_loss_first": trained["validation_loss_first"],
        "validation_loss_best": trained["validation_loss_best"],
        "rules": verdict["rules"],
        "gate": verdict["passed"],
    }


def _curve(evidence: Path) -> list[float]:
    """Validation losses of a training's log, that before its first step left out."""
    lines = [json.loads(line) for line in (evidence / "log.jsonl").read_text("utf-8").splitlines()]
    losses = {
        line["step"]: line["validation_loss"] for line in lines if line.get("validation_loss") is not None
    }
    return [losses[step] for step in sorted(losses) if step]
