"""Holds what a stage works with: the variant's key, its declaration, the store, this host, the artifacts
upstream.

The same for assets, command line, experiments and plans ahead of a run; it knows nothing of Dagster.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.arithmetic import Dtype, judging_dtype
from ft_dagster.launch.inventory import Inventory
from ft_dagster.launch.leases import Leases, of_host
from ft_dagster.models.derived import added_tokens, base_files, base_folder
from ft_dagster.program import TRAINING, ProgramResult
from ft_dagster.roots import Roots
from ft_dagster.schema_version import stored_as
from ft_dagster.settings import Settings
from ft_dagster.spec import Declared, VariantKey, VariantSpec, load_variant
from ft_dagster.spec.overrides import refuse_fixed, with_overrides
from ft_dagster.spec.variant import ResourcesSpec
from ft_dagster.stage_entries import BASE_MODEL, DECLARATION, TRAINING_PLAN
from ft_dagster.store import (
    SHARED,
    Artifact,
    Attempt,
    Place,
    Store,
    find_artifact,
    read_head,
    verify_artifact,
    write_head,
)
from ft_dagster.store.checkpoint_mirror import CheckpointMirror, forget
from ft_dagster.store.make import Claiming, Recipe, host_lock, make_artifact, unclaimed
from ft_dagster.store.training_claim import TrainingClaim
from ft_dagster.training.kept_base import KEPT_BASES
from ft_dagster.workspace.answer_engine import TRANSFORMERS, Engine, may_be_vllm, not_by_vllm, without_room
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import key_parts
from ft_dagster.workspace.past import Past
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.stage_version import is_of_now

if TYPE_CHECKING:
    from ft_dagster.launch.launcher import Launcher
    from ft_dagster.planning.judging import Judges

NODES = "nodes"  # an attempt's folder, of what trainings leave for other hosts while they run
I = TypeVar("I")  # noqa: E741
Say = Callable[[str], None]
Reporting = Callable[[], AbstractContextManager[Mapping[str, str]]]


@contextmanager
def _nobody_listens() -> Iterator[Mapping[str, str]]:
    yield {}


def _nobody_knows(run_id: str) -> bool:
    return False


@dataclass(frozen=True)
class RunOf:
    """Says who asked: recorded in heads, leases and the release log. `reporting` gives a program the
    environment in which it reports its progress, where somebody listens. `has_ended`: whether a run is known
    to have ended, by its id; a process of it may live on for a while.
    """

    id: str = "by-hand"
    reason: str = "by hand"
    say: Say = print
    reporting: Reporting = _nobody_listens
    has_ended: Callable[[str], bool] = _nobody_knows


@dataclass(frozen=True)
class Trial:
    """Says what an experiment changes: heads of its own below `heads`, fields of the declaration as it was
    when the experiment began, and for a training the validation loss (by evaluation: 1, 2, ...) above which
    it gives up, on how many examples of its sample (None: all).
    """

    heads: str
    declared: Declared
    overrides: Mapping[str, Any] = field(default_factory=dict)
    stop_above: Mapping[int, float] = field(default_factory=dict)
    stop_above_on: int | None = None


@dataclass(frozen=True)
class Workspace:
    """Holds all that is known of one variant. `trial`: of an experiment. Artifacts lie under `prefix` by
    their key either way, so an experiment shares what is equal; its heads lie apart. `looking`: nothing is
    made and no head is moved; what is not the newest artifact already raises UserError. `opened`: the store,
    where the caller has it open.
    """

    settings: Settings
    key: VariantKey
    run: RunOf = RunOf()
    trial: Trial | None = None
    launcher: Launcher[Any] | None = None
    looking: bool = False
    opened: Store | None = None

    @cached_property
    def store(self) -> Store:
        return self.opened or self.settings.open_store(self.key.tenant)

    @cached_property
    def mirrors(self) -> dict[Path, CheckpointMirror]:
        """Return the mirrors of the trainings that were run so far, by their folders."""
        return {}

    @property
    def project(self) -> Path:
        return self.settings.project

    @property
    def cache(self) -> Path:
        return self.settings.cache_folder

    @property
    def bases_kept_in(self) -> Path:
        """Return where trainings keep quantized bases."""
        return self.cache / KEPT_BASES

    @property
    def mirrors_checkpoints(self) -> bool:
        """Say whether a training's checkpoints are sent to the store while it runs: to one that is remote. A
        folder outlives a run no more than `work` does.
        """
        return self.store.remote

    @property
    def prefix(self) -> str:
        """Return the variant's own part of the store."""
        return self.key.prefix

    @property
    def heads(self) -> str:
        return self.prefix if self.trial is None else f"{self.prefix}/experiments/{self.trial.heads}"

    @property
    def roots(self) -> Roots:
        """Return what the declaration may reach."""
        return self.settings.roots(self.key.tenant)

    @property
    def declared_in(self) -> Path:
        """Return the variant's file, for errors to name."""
        return self.project / "tenants" / self.key.tenant / f"{self.key.variant}.yaml"

    def declared(self) -> Declared:
        """Return the declaration as it is now, with what an experiment changes. Raises UserError, also for a
        field that none may change.
        """
        if self.trial is not None:
            for field, value in self.trial.overrides.items():
                refuse_fixed(field, value, self.trial.declared.file)
            return with_overrides(self.trial.declared, self.trial.overrides)
        return load_variant(self.project, self.key)

    @cached_property
    def frozen(self) -> dict[str, Any]:
        """Read declaration.json as it was frozen: spec, sources (their fingerprints), tasks (their
        digests).
        """
        file = self.payload(self.upstream(DECLARATION.name)) / "declaration.json"
        content: dict[str, Any] = json.loads(file.read_text("utf-8"))
        return content

    @cached_property
    def spec(self) -> VariantSpec:
        return stored_as(VariantSpec, self.frozen["spec"], file="declaration.json")

    def head(self, stage: str) -> Artifact | None:
        """Return the newest artifact of a stage; of a corpus see `workspace.corpora`."""
        return read_head(self.store, self.heads, stage)

    def upstream(self, stage: str) -> Artifact:
        """Return the head of a stage: what this run just made, else the newest before it. Raises
        UserError.
        """
        artifact = self.head(stage)
        if artifact is None:
            raise UserError(
                f"{self.key} has no {stage} yet", fix=f"Materialize {stage} of this partition first"
            )
        return artifact

    def folder(self, artifact: Artifact) -> Path:
        """Return the artifact's `payload/` and `evidence/` on this machine."""
        return artifact.folder(self.store, self.cache)

    def payload(self, artifact: Artifact) -> Path:
        return self.folder(artifact) / "payload"

    def evidence(self, artifact: Artifact) -> Path:
        return self.folder(artifact) / "evidence"

    def verify(self, artifact: Artifact) -> None:
        """Hash all files of an artifact again; where one only looks, those of this host touched since then.
        Raises UserError.
        """
        if self.looking and not self.store.remote:
            self.folder(artifact)
        else:
            verify_artifact(self.store, artifact, self.cache)

    def base_folder(self, base: Artifact) -> Path:
        """Return the base model's folder on this machine, its files checked."""
        return base_folder(self.store, base, self.project, self.cache)

    def base_files(self, base: Artifact) -> dict[str, str]:
        """Return the sha256 of each file of the base that loading reads, by its path below `base_folder`."""
        return base_files(self.store, base, self.cache)

    @cached_property
    def leases(self) -> Leases:
        return of_host(self.settings.host)

    def trains_on(self, resources: ResourcesSpec) -> Inventory:
        """Return the devices that what declares `resources` is planned for: of this host, or of a node that
        its run goes to. Raises UserError.
        """
        from ft_dagster.launch.offer import inventory_of

        nodes = self.settings.nodes(resources)
        return self.leases.inventory if nodes is None else inventory_of(nodes)

    @property
    def device(self) -> str:
        """Return torch's name for what models are judged on."""
        return "cuda" if self.trains_on(ResourcesSpec()).kind == "gpu" else "cpu"

    @property
    def dtype(self) -> Dtype:
        """Return the number format in which models are asked: base and tuned model are compared in one
        alone.
        """
        return judging_dtype(self.device)

    @property
    def engine(self) -> Engine:
        """Return what writes the answers of base and tuned model alike. Raises UserError."""
        if not may_be_vllm(self.settings, self.device):
            return TRANSFORMERS
        reason = self._not_by_vllm()
        return Engine("vllm", self.settings.vllm_python) if reason is None else Engine(reason=reason)

    def engine_of(self, evaluation: Mapping[str, Any]) -> Engine:
        """Return what wrote the answers of an evaluation, by what its key covers beside digests."""
        vllm = evaluation.get("engine.name") == "vllm"
        return Engine("vllm", self.settings.vllm_python) if vllm else TRANSFORMERS

    def _not_by_vllm(self) -> str | None:
        if self.spec.resources.sharing == "shared":
            return "the device is shared, and vLLM takes what is free of it"
        base, method = self.upstream(BASE_MODEL.name), self.upstream(TRAINING_PLAN.name).figures["method"]
        new_tokens = base.place.prefix != SHARED and bool(added_tokens(self.store, base))
        devices = self.trains_on(self.spec.resources).devices
        least = min((d.memory_bytes for d in devices if d.memory_bytes is not None), default=None)
        room = without_room(base.figures["parameters"], self.dtype, least)
        return not_by_vllm(method, new_tokens=new_tokens) or room

    def make(self, stage: Stage[I]) -> Artifact:
        """Return the stage's artifact, found under its key or built, with the head pointing at it. Raises
        UserError, ProgramFailed, TrainingStopped.
        """
        artifact = self._make(stage)
        if stage.name == DECLARATION.name:
            for read in ("frozen", "spec"):
                self.__dict__.pop(read, None)
        stage.after(self, artifact)
        if not stage.entry.on_demand and not self.looking:
            write_head(self.store, self.heads, artifact, self.run.id)
        return artifact

    @property
    def context(self) -> BuildContext:
        """Return what a build of no stage would work with: it may ask all of the past."""
        return BuildContext(self)

    def recipe(self, stage: Stage[I]) -> tuple[Recipe, I]:
        """Return what the stage's artifact would be made from now."""
        inputs = stage.inputs(View(self, stage))
        parts, shared = key_parts(inputs), stage.owner(inputs) == SHARED
        if stage.stands is not None:
            newest = self.head(stage.name)
            if newest is not None and is_of_now(newest) and stage.stands(newest, parts.others(newest)):
                parts = parts._replace(spec=newest.spec)
        return (
            Recipe(
                stage.name,
                SHARED if shared else self.prefix,
                parts.inputs,
                parts.spec,
                None if shared else str(self.key),
                stage.seed(inputs),
                parts.manifests,
                tuple(parts.artifacts.values()),
            ),
            inputs,
        )

    def _make(self, stage: Stage[I]) -> Artifact:
        stage.refuse(self)
        recipe, inputs = self.recipe(stage)
        if self.looking:
            return self._standing(stage, recipe)
        context = BuildContext(self, stage.asks)

        def build(attempt: Attempt) -> Mapping[str, object]:
            stage.refuse_new(self)
            return stage.build(inputs, context, attempt)

        work, place = self.settings.work_folder, recipe.place
        # What one variant makes another of the tenant takes over under the same key: they take turns.
        claiming: Claiming = (
            partial(_claiming, self, place, context) if TRAINING in stage.programs else unclaimed
        )
        turns = Past.made_beside.__name__ in stage.asks
        waits = partial(self._say_wait, stage.name)
        turn = f"{self.key.tenant}/{stage.name}/{place.key}"
        with host_lock(work, turn, waits) if turns else nullcontext():
            artifact = make_artifact(self.store, work, recipe, build, claiming, waits=waits)
        for run_dir, left_at in context.finished.items():
            shutil.rmtree(run_dir, ignore_errors=True)
            if left_at and self.mirrors_checkpoints:
                forget(self.store, left_at)
        how = "reused, no work done" if artifact.reused else "made"
        self.run.say(f"{stage.name} {artifact.digest[:12]} {how}")
        return artifact

    def _say_wait(self, stage: str) -> None:
        self.run.say(f"waits for {stage}, which another process makes in {self.settings.work_folder}")

    def _standing(self, stage: Stage[I], recipe: Recipe) -> Artifact:
        """Return what stands under the key, and is the newest of its stage. Raises UserError."""
        found = find_artifact(self.store, recipe.place)
        head = found if stage.entry.on_demand else self.head(stage.name)
        if found is None or head is None or head.place != found.place:
            raise UserError(f"{self.key} has another {stage.name} by now", fix="Run it")
        return found

    def run_dir(self, attempt: Attempt, part: str = "") -> Path:
        """Return a program's folder, named by the key: a second try finds the checkpoints of the first.
        `part`: of a stage that runs another program besides.
        """
        name = f"{attempt.place.stage}{part}-{attempt.place.key[:16]}"
        return self.settings.work_folder / "runs" / str(self.key) / name

    def left_by_nodes(self, attempt: Attempt, part: str = "") -> str:
        """Return where in the store a training leaves what it goes on from elsewhere; see `run_dir`."""
        return f"{attempt.place.path}/{NODES}{part}/evidence"

    def recall(self, run_dir: Path, left_at: str, asked: BaseModel) -> None:
        """Have in a training's folder what its newest try on another host left in the store, and room for it
        on a node. `asked`: of it, as far as is known without that.
        """
        from ft_dagster.workspace.kept_training import clear_scratch, fetch_checkpoints

        if self.settings.ray is not None and self.spec.resources.nodes == 1:  # several have one folder
            clear_scratch(self.settings, self.key)
        fetch_checkpoints(self, run_dir, left_at, asked)

    def output_of_try(self, run_dir: Path) -> Path:
        """Return the folder for the output of a program that begins now: a new one for each try where Ray
        places programs on other nodes than the run.
        """
        from ft_dagster.launch.choice import are_placed
        from ft_dagster.workspace.kept_training import begin_anew

        return begin_anew(run_dir) if are_placed(self.settings, self.spec) else run_dir / "output"

    def run_program(
        self,
        program: str,
        run_dir: Path,
        request: BaseModel,
        *,
        leased: bool,
        left_at: str = "",
        claim: TrainingClaim | None = None,
    ) -> ProgramResult:
        """Run a program, see `programs.run_program`."""
        from ft_dagster.workspace.programs import run_program

        return run_program(self, program, run_dir, request, leased=leased, left_at=left_at, claim=claim)

    def judges(self, spec: VariantSpec) -> Judges | None:
        """Return the GPUs that may judge what `spec` declares; None without any. Raises UserError."""
        from ft_dagster.workspace.programs import judges

        return judges(self, spec)


@contextmanager
def _claiming(workspace: Workspace, place: Place, context: BuildContext) -> Iterator[Callable[[], None]]:
    """Hold the claim to train, for all that a build does and the commit after it."""
    from ft_dagster.workspace.kept_training import claimed_training

    with claimed_training(workspace, place) as context.claim:
        yield context.claim.check if context.claim is not None else lambda: None


def refuse_experiment(workspace: Workspace) -> None:
    """Raises UserError in the workspace of an experiment."""
    if workspace.trial is not None:
        raise UserError(
            "an experiment is neither exported nor released",
            value=workspace.trial.heads,
            fix="Declare its winner, then run the variant",
        )


@contextmanager
def named_in(file: Path) -> Iterator[None]:
    """Let a UserError that names no file name this one."""
    try:
        yield
    except UserError as error:
        error.file = error.file or str(file)
        raise
