"""Limits what a stage's `inputs` may ask for: the stages it reads, the fields it lists, facts of the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ft_dagster.evaluation.models.arithmetic import Dtype
from ft_dagster.evaluation.tasks.tasks import names_of
from ft_dagster.launch.inventory import Inventory
from ft_dagster.spec import Declared, VariantSpec, load_corpus
from ft_dagster.spec.narrow import narrowed
from ft_dagster.spec.policy import CostLimit, Policy
from ft_dagster.stage_entries import DECLARATION, GENERAL_CORPUS, TRAINING_PLAN
from ft_dagster.store import Artifact
from ft_dagster.workspace.answer_engine import Engine
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.corpora import find_corpus
from ft_dagster.workspace.keyed_inputs import File
from ft_dagster.workspace.stage import Stage

if TYPE_CHECKING:
    from ft_dagster.planning.judging import Judges
    from ft_dagster.workspace.workspace import Workspace


T = TypeVar("T")


class UnlistedStage(Exception):
    """Signals that a stage asked for an artifact of a stage that it does not list in `reads`."""


class View(BuildContext):
    """Gives a stage's `inputs` what it may ask for. Its declaration has the listed fields alone.

    `then`: the artifact that is looked at, where only whether it would be another is told (`versions.now`).
    """

    def __init__(self, workspace: Workspace, stage: Stage[Any]) -> None:
        super().__init__(workspace, stage.asks)
        self.stage = stage

    then: Artifact | None = None

    @property
    def spec(self) -> VariantSpec:
        """Return the declaration as frozen, and narrowed: reading a field that the stage does not list raises
        UnlistedField.
        """
        return narrowed(self._workspace.spec, self.stage.fields)

    @property
    def policy(self) -> Policy:
        """Return what the platform allows this tenant today."""
        return self._workspace.settings.policies().of(self.key.tenant)

    @property
    def cost_limit(self) -> CostLimit | None:
        """Return what a plan may cost by it."""
        return self._workspace.settings.policies().cost_limit(self.key.tenant)

    @property
    def device(self) -> str:
        return self._workspace.device

    @property
    def dtype(self) -> Dtype:
        return self._workspace.dtype

    @property
    def engine(self) -> Engine:
        self._listed(TRAINING_PLAN.name)
        return self._workspace.engine

    def engine_of(self, evaluation: Artifact) -> Engine:
        return self._workspace.engine_of(evaluation.spec)

    @property
    def trains_on(self) -> Inventory:
        return self._workspace.trains_on(self._workspace.spec.resources)

    @property
    def judges(self) -> Judges | None:
        """Return the GPUs of this host that may judge. Raises UserError for a kind or a memory that none
        has.
        """
        return self._workspace.judges(self._workspace.spec)

    @property
    def stop_above(self) -> dict[int, float]:
        trial = self._workspace.trial
        return {} if trial is None else dict(trial.stop_above)

    @property
    def stop_above_on(self) -> int | None:
        trial = self._workspace.trial
        return None if trial is None else trial.stop_above_on

    @property
    def choosing(self) -> bool:
        """Say whether models are only compared here, to choose one that is judged by other questions: in an
        experiment.
        """
        return self._workspace.trial is not None

    @property
    def overrides(self) -> dict[str, object]:
        trial = self._workspace.trial
        return {} if trial is None else dict(trial.overrides)

    def declared(self) -> Declared:
        """Return the declaration as the tenant's file has it now: for the stage that freezes it."""
        if self.stage.entry != DECLARATION:
            raise UnlistedStage(f"{self.stage.name} asks for the file, and is not the stage that freezes it")
        return self._workspace.declared()

    def frozen(self, part: str) -> Any:
        """Return `sources` (their fingerprints) or `tasks` (their digests) of the frozen declaration."""
        self._listed(DECLARATION.name)
        return self._workspace.frozen[part]

    def task_names(self, entries: Sequence[str]) -> Mapping[str, str]:
        """Return what scores call each of these entries of `evaluation`. Raises UserError."""
        return names_of(entries, self.project, asked_by=self.declared_in, roots=self.roots)

    def upstream(self, stage: str) -> Artifact:
        """Return the newest artifact of a stage that this one lists. Raises UserError."""
        self._listed(stage)
        return self._workspace.upstream(stage)

    def corpus(self, name: str) -> Artifact:
        """Return the newest artifact of a general corpus. Raises UserError, also where no file declares it
        any more.
        """
        self._listed(GENERAL_CORPUS.name)
        load_corpus(self.project, name, asked_by=self.declared_in)
        return find_corpus(self._workspace.store, name)

    def made(self, stage: Stage[Any]) -> Artifact:
        """Return the artifact of a stage that is made on demand."""
        self._listed(stage.name)
        return self._workspace.make(stage)

    def file(self, artifact: Artifact, name: str) -> File | None:
        """Return a file of an artifact's payload; None where it has none of that name."""
        path = self.payload(artifact) / name
        return File.of(path) if path.exists() else None

    def by_bytes(self, found: Callable[[], T]) -> T:
        """Find a part of the key for which files may have to be opened; UNKNOWN where they are not."""
        return found()

    def unlooked(self, found: Callable[[], T]) -> T:
        """Do what enters no key, refuses by what lies in files, or is read anew by every run; return UNKNOWN
        where one only looks.
        """
        return found()

    def _listed(self, stage: str) -> None:
        if stage not in [each.name for each in self.stage.reads]:
            raise UnlistedStage(f"{self.stage.name} asks for {stage}, and does not list it")
