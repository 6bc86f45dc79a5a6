"""Answers for a stage's inputs what they would be today, where its artifact is only looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

from ft_dagster.evaluation.models.arithmetic import Dtype
from ft_dagster.lineage.frozen import content_of
from ft_dagster.lineage.stale import StaleCause
from ft_dagster.lineage.tries import Dealt
from ft_dagster.spec import Declared, VariantSpec
from ft_dagster.spec.narrow import narrowed
from ft_dagster.spec.policy import Breach, CostLimit, Policy
from ft_dagster.stage_entries import (
    DECLARATION,
    GENERAL_CORPUS,
)
from ft_dagster.stages.chain import CHAIN, ON_DEMAND
from ft_dagster.store import Artifact, Place
from ft_dagster.versions.version_artifacts import VersionArtifacts
from ft_dagster.workspace.answer_engine import Engine
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import (
    UNKNOWN,
    File,
    Unopened,
)
from ft_dagster.workspace.past import Past
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.workspace import Workspace

STAGES: Mapping[str, Stage[Any]] = {stage.name: stage for stage in (*ON_DEMAND, *CHAIN)}
TASKS = "tasks"  # the name, in keys, of digests by declared task
T = TypeVar("T")


class CorpusNow(NamedTuple):
    """Describes a general corpus. `digest`: of its newest artifact; `causes`: why that is out of date
    itself.
    """

    digest: str | None
    causes: tuple[StaleCause, ...] = ()


@dataclass(frozen=True)
class FoundNow:
    """Holds what a run would find beside the declaration. `tasks`: digests by entry, by role, and `names`:
    what scores call each entry; None where one cannot be read, and `wrong` says why. `breaches`: of the
    `policy`. `corpus`: the one that is declared. `sources`: their fingerprints. A field that is None is as
    the newest run found it.
    """

    tasks: Mapping[str, Mapping[str, str]] | None
    breaches: tuple[Breach, ...] = ()
    corpus: CorpusNow | None = None
    wrong: tuple[StaleCause, ...] = ()
    sources: Sequence[Any] | None = None
    policy: Policy | None = None
    names: Mapping[str, str] | None = None


class _Gone(dict[str, Any]):
    """Stands for an artifact that is no longer there, or was never made."""

    def __missing__(self, name: str) -> Any:
        raise Unopened


class _SeenPast(Past):
    """Reads no new try: how often questions were put, and of which set, is taken from the manifest."""

    def tries(self, weights: Artifact, questions: str, judged: Mapping[str, str]) -> int:
        raise Unopened

    def part_of_reserve(self, sets: int, asked_in: Callable[[Dealt], str]) -> Dealt:
        raise Unopened


class Look(View):
    """Answers what `inputs` may ask for where an artifact, `then`, is only looked at."""

    def __init__(
        self,
        workspace: Workspace,
        declared: Declared,
        version: VersionArtifacts,
        now: FoundNow,
        artifact: Artifact,
        *,
        exact: bool = False,
    ) -> None:
        super().__init__(workspace, STAGES[artifact.place.stage])
        self._then, self._declared, self._version, self._now = artifact, declared, version, now
        self.then, self._exact = artifact, exact

    @cached_property
    def spec(self) -> VariantSpec:
        return narrowed(self._declared.spec, self.stage.fields)

    @property
    def policy(self) -> Policy:
        """Return today's policy, unless the verdict was given under it: then a later version of this package
        would say another thing of it, which is no cause.
        """
        policy: Policy = _known(self._now.policy)
        if self._then.figures.get("verdict", {}).get("policy") == policy.digest:
            raise Unopened
        return policy

    def task_names(self, entries: Sequence[str]) -> Mapping[str, str]:
        return _known(self._now.names)

    @property
    def device(self) -> str:
        return str(self._then.spec.get("device"))

    @property
    def dtype(self) -> Dtype:
        said = self._then.spec.get("dtype")
        return next((known for known in get_args(Dtype) if known == said), UNKNOWN)

    @property
    def engine(self) -> Engine:
        return self.engine_of(self._then)

    @property
    def past(self) -> Past:
        return _SeenPast(self._workspace.store, self.key, self.cache, self.declared_in, self.stage.asks)

    @property
    def cost_limit(self) -> CostLimit | None:
        return None

    def declared(self) -> Declared:
        return self._declared

    def frozen(self, part: str) -> Any:
        self._listed(DECLARATION.name)
        known = {TASKS: self._now.tasks, "sources": self._now.sources}[part]
        if known is not None:
            return known
        newest = self._version.heads.get(DECLARATION.name)
        return content_of(_known(newest))[part]

    def upstream(self, stage: str) -> Artifact:
        self._listed(stage)
        return self._version.artifacts.get(stage) or self._gone(stage)

    def made(self, stage: Stage[Any]) -> Artifact:
        return self.upstream(stage.name)

    def corpus(self, name: str) -> Artifact:
        self._listed(GENERAL_CORPUS.name)
        return self._gone(GENERAL_CORPUS.name)

    def _gone(self, stage: str) -> Artifact:
        digest = self._then.inputs.get(stage, "")
        return Artifact(Place(self._workspace.prefix, stage, ""), _Gone(digest=digest, inputs={}, spec={}))

    def file(self, artifact: Artifact, name: str) -> File | None:
        with suppress(Unopened):
            found = artifact.files.get(f"payload/{name}")
            return None if found is None else File(Path(name), found.sha256)
        return UNKNOWN

    def by_bytes(self, found: Callable[[], T]) -> T:
        try:
            return found()
        except Unopened:
            return UNKNOWN

    def unlooked(self, found: Callable[[], T]) -> T:
        return UNKNOWN

    def added_token_ids(self, base: Artifact) -> list[int]:
        """Return the added tokens by number alone: the base's files say where they lie in the vocabulary."""
        tokens = self.added_tokens(base)
        return list(self._then.spec.get("withheld") or range(len(tokens))) if tokens else []

    def verify(self, artifact: Artifact) -> None:
        pass

    def payload(self, artifact: Artifact) -> Path:
        return super().payload(self._opened(artifact))

    def evidence(self, artifact: Artifact) -> Path:
        return super().evidence(self._opened(artifact))

    def base_folder(self, base: Artifact) -> Path:
        return super().base_folder(self._opened(base))

    def base_files(self, base: Artifact) -> dict[str, str]:
        return super().base_files(self._opened(base))

    def _opened(self, artifact: Artifact) -> Artifact:
        if not self._exact or isinstance(artifact.predicate, _Gone):
            raise Unopened
        return artifact


def _known(value: T | None) -> T:
    if value is None:
        raise Unopened
    return value
