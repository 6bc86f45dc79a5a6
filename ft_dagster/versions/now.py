"""Decides whether a variant's artifacts are those that would be made now, and if not, names the root causes.

Each artifact of a version is held against the inputs that its stage would ask for today, part by part of its
key: what is declared is computed anew, artifacts are followed through the graph, what the host said is as it
was then, and what follows from files is computed as far as none is opened. No payload, no base and no process
is touched. What lies at sources and bases is listed elsewhere (`fleet.refresh.watching`). Before a run is
called unneeded, its whole chain is looked at by the keys themselves, and bytes are read (`up_to_date`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.arithmetic import Dtype
from ft_dagster.lineage.graph import inputs_among, of_equal_bytes
from ft_dagster.lineage.stale import StaleCause, field_changed, stage_raised
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.models.derived import parents_moved
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.schema_version import STORED
from ft_dagster.settings import Settings
from ft_dagster.spec import Declared, VariantKey, VariantSpec
from ft_dagster.spec.narrow import narrowed, shown_value
from ft_dagster.spec.policy import Breach, CostLimit, Policy
from ft_dagster.stage_entries import (
    BASE_MODEL,
    DECLARATION,
    ENTRIES,
    GENERAL_CORPUS,
    RELEASE,
    TRAINING_MIXTURE,
    version_of,
)
from ft_dagster.stages.chain import CHAIN, ON_DEMAND, failed_check
from ft_dagster.stages.declaration import content_of
from ft_dagster.stages.general_corpus import corpora_stand
from ft_dagster.stages.judging.export_lineage import frozen_declarations
from ft_dagster.stages.release import Released, release
from ft_dagster.store import SHARED, Artifact, Place, Store
from ft_dagster.versions.version_artifacts import VersionArtifacts
from ft_dagster.workspace.answer_engine import Engine
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import (
    UNKNOWN,
    Digest,
    File,
    Part,
    Unopened,
    differing,
    digest_of,
    parts_of,
    plain,
)
from ft_dagster.workspace.past import Past
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.stage_version import former_input, is_of_now
from ft_dagster.workspace.workspace import Workspace

log = logging.getLogger(__name__)
ORDER = tuple(ENTRIES)
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


def difference(
    workspace: Workspace,
    declared: Declared,
    version: VersionArtifacts,
    now: FoundNow,
    *,
    exact: bool = False,
) -> tuple[StaleCause, ...]:
    """Return the root causes, each once: the platform's first, then from the declaration on down the chain.
    None where nothing was made yet. `exact`: open files for whatever follows from them and is not known here.
    Raises UserError for a store that cannot be read.
    """
    made, store = version.artifacts, workspace.store
    if not made:
        return ()
    told = _Told(declared.spec, version)

    def parts(artifact: Artifact) -> dict[str, Part]:
        return parts_now(Look(workspace, declared, version, now, artifact, exact=exact))

    for artifact in sorted(filter(is_of_now, made.values()), key=lambda each: ORDER.index(each.place.stage)):
        told.add(*_as_made_now(workspace, artifact, parts))
    fields = told.fields
    found = [*map(_breached, now.breaches)]
    found += [*now.wrong, *told.of_fields(), *_raised(made.values()), *told.tasks]
    if "data.general" not in " ".join(fields):
        found += _corpus(made, now.corpus, declared.spec)
    if not any(field.startswith("data.sources") for field in fields):
        found += _sources(store, workspace.prefix, version, now.sources)
    if not any(field.startswith("base_model") for field in fields):
        found += _base(store, declared, version)
    return tuple(dict.fromkeys((*found, *told.derived)))


def parts_now(look: Look) -> dict[str, Part]:
    """Return the parts of the key that an artifact would have today, by name; none where what it would be
    made from is gone.
    """
    try:
        return parts_of(look.stage.inputs(look))
    except Unopened:
        return {}


def _as_made_now(
    workspace: Workspace, artifact: Artifact, parts: Callable[[Artifact], dict[str, Part]]
) -> tuple[Artifact, dict[str, Part]]:
    """Return an artifact and the parts that its key would have today. If it is made on demand and would have
    another key, return one of the same bytes that has today's. What was made of the bytes keeps naming the
    other.
    """
    now = parts(artifact)
    if artifact.place.stage in {stage.name for stage in ON_DEMAND} and others(artifact, now):
        places, stage = (workspace.prefix, SHARED), artifact.place.stage
        equal = filter(is_of_now, of_equal_bytes(workspace.store, places, stage, artifact.digest))
        found = ((each, parts(each)) for each in equal)
        return next((each for each in found if not others(*each)), (artifact, now))
    return artifact, now


@dataclass(frozen=True)
class CurrentVersion:
    """Proves that a run is not needed. `digests`: of the newest artifact of each stage, and of what is
    released, by the stage's name.
    """

    digests: dict[str, str]
    released: Released


def up_to_date(settings: Settings, key: VariantKey) -> CurrentVersion | None:
    """Return what stands if a run would make, move or release nothing, else None: each artifact's key, bytes
    and checks, the verdict, the certificate and the release log are looked at as a run would.

    Also None where anything goes wrong: it would go wrong in the run, which says it and tries it again.
    """
    try:
        return _up_to_date(Workspace(settings, key, looking=True)) if corpora_stand(settings) else None
    except (UserError, OSError) as error:
        log.info("%s needs a run: %s", key, error)
    except Exception as error:
        log.error("a look at %s failed (%s: %s): a run is started", key, type(error).__name__, error)
    return None


def _up_to_date(workspace: Workspace) -> CurrentVersion | None:
    digests = {}
    for stage in CHAIN:
        artifact = workspace.make(stage)
        if failed_check(workspace, stage, artifact) is not None:
            return None
        if not workspace.store.remote:  # there the release alone is read whole
            workspace.verify(artifact)
        digests[stage.name] = artifact.digest
    released = release(workspace)
    return CurrentVersion({**digests, RELEASE.name: released.entry.export}, released)


class _Gone(dict[str, Any]):
    """Stands for an artifact that is no longer there, or was never made."""

    def __missing__(self, name: str) -> Any:
        raise Unopened


class _SeenPast(Past):
    """Reads no new try: how often questions were put is taken from the manifest."""

    def tries(self, weights: Artifact, questions: str) -> int:
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


class _Told:
    """Gathers the changes of a version's artifacts, one after the other. `fields`: declared ones."""

    def __init__(self, spec: VariantSpec, version: VersionArtifacts) -> None:
        self.spec, self.version = spec, version
        self.fields, self.tasks, self.derived = dict[str, None](), list[StaleCause](), list[StaleCause]()
        self._following = list[tuple[Artifact, tuple[str, ...], bool]]()
        self._others = set[str]()  # the stages whose artifacts would have another key

    def add(self, artifact: Artifact, parts: Mapping[str, Part]) -> None:
        """Compare the parts of an artifact's key with those that it would have."""
        other, stage = others(artifact, parts), artifact.place.stage
        if other and self._stands(artifact, other):
            return
        self._others |= {stage} if other else set()
        declared = {
            name: part
            for name, part in other.items()
            if part.kind == "declared" or part.fields(self.spec, "")
        }
        alone = not any(isinstance(part.value, BaseModel) for part in declared.values())
        for name, part in declared.items():
            self._declared(artifact, name, part, alone=alone)
        if declared or not self._made_of_now(artifact):
            return  # what follows is another by that
        said = dict.fromkeys(part.words for part in other.values() if part.words)
        self.derived += [StaleCause("stage", stage, words.format(stage=stage)) for words in said]

    def _stands(self, artifact: Artifact, other: Collection[str]) -> bool:
        """Say whether an artifact stands though these parts of its key changed: see `Stage.stands`. It does
        not where what it was made from would change, or is a verdict by which it may not be made.
        """
        stands = STAGES[artifact.place.stage].stands
        if stands is None or not self._others.isdisjoint(artifact.inputs) or not self._made_of_now(artifact):
            return False
        above = inputs_among(self.version.artifacts, artifact)
        judged = [each.figures["verdict"] for each in above if "verdict" in each.figures]
        return all(Verdict.from_json(each).passed for each in judged) and stands(artifact, other)

    def _declared(self, artifact: Artifact, name: str, part: Part, *, alone: bool) -> None:
        if isinstance(part.value, BaseModel):
            named = _differences(artifact.spec.get(name, {}), self.spec, part.value)
            self.fields |= dict.fromkeys(named)
            return
        then, now = artifact.spec.get(name), _plain(part.value)
        for leaf in differing(then, now):
            if TASKS in (*name.split("."), *leaf)[:-1] and None not in (_at(then, leaf), _at(now, leaf)):
                self.tasks.append(StaleCause("task", leaf[-1], f"the task {leaf[-1]} is another"))
            self._following.append((artifact, part.fields(self.spec, ".".join(leaf)), alone))

    def of_fields(self) -> list[StaleCause]:
        """Return a cause for each field from which changed parts follow, if it changed since the newest run.
        Where none did, and nothing else of the artifact is declared otherwise, all of them; but none where a
        default changed with the version of what it was made from, which is said by itself.
        """
        now = _content_of(self.spec) if self.fields or self._following else {}
        before, direct = self._before if self._following else {}, list(self.fields)
        for artifact, fields, alone in self._following:
            said = [each for each in fields if any(f"{one}.".startswith(f"{each}.") for one in direct)]
            changed = [each for each in fields if before and _at(before, each) != _at(now, each)]
            if not changed and alone and not said and self._made_of_now(artifact):
                changed = list(fields)
            self.fields |= dict.fromkeys(each for each in changed if each not in said)
        return [field_changed(each, self._then(each), _at(now, each)) for each in sorted(self.fields)]

    def _made_of_now(self, artifact: Artifact) -> bool:
        """Say whether everything it was made from is as it is made today."""
        return all(map(is_of_now, inputs_among(self.version.artifacts, artifact)))

    @property
    def _before(self) -> dict[str, Any]:
        """Return the declaration of the newest run, with defaults for later fields where it is still
        valid.
        """
        newest = self.version.heads.get(DECLARATION.name)
        declared: dict[str, Any] = {} if newest is None else content_of(newest)["spec"]
        with suppress(ValidationError):
            return _content_of(VariantSpec.model_validate(declared, context=STORED))
        return declared

    def _then(self, field: str) -> Any:
        """Return the value of a field as a key of the version has it; None where none has."""
        for artifact in filter(is_of_now, self.version.artifacts.values()):
            for part in artifact.spec.values():
                if (value := _at(part, field)) is not None:
                    return value
        return None


def others(artifact: Artifact, parts: Mapping[str, Part]) -> dict[str, Part]:
    """Return those parts of a key that differ from an artifact's."""
    return {name: part for name, part in parts.items() if is_other(artifact, name, part)}


def is_other(artifact: Artifact, name: str, part: Part) -> bool:
    """Say whether a part of a key differs from an artifact's; of an artifact, whether there is one."""
    value = part.value
    then = artifact.inputs.get(name, artifact.spec.get(name))
    if value is UNKNOWN or part.kind == "host":
        return False
    if value is None or then is None:
        return (value is None) != (then is None)
    if isinstance(value, Artifact):
        return False
    with suppress(Unopened):
        return bool(then != _plain(value))
    return False


def _plain(value: Any) -> Any:
    return digest_of(value) if isinstance(value, File | Digest) else None if value is None else plain(value)


def _differences(then: Any, now: Any, listed: Any, path: str = "") -> Iterator[str]:
    """Return the fields below `path` on which a key differs from the declaration. `listed`: what of it the
    stage lists; a field that keys took up later is in none where it had its default.
    """
    if not (isinstance(then, dict) and isinstance(now, BaseModel)):
        if shown_value(now) != then:
            yield path
        return
    kind, there = type(now), listed.__dict__ if isinstance(listed, BaseModel) else {}
    for name, each in kind.model_fields.items():
        value, below = getattr(now, name), f"{path}.{name}".removeprefix(".")
        if name in then:
            yield from _differences(then[name], value, there.get(name), below)
        elif name in there and name in getattr(kind, "added", ()) and value != each.default:
            yield below


def _breached(breach: Breach) -> StaleCause:
    return StaleCause("policy", breach.rule, f"the policy demands {breach.allowed} ({breach.field})")


def _raised(made: Iterable[Artifact]) -> Iterator[StaleCause]:
    for artifact in made:
        stage, former = artifact.place.stage, former_input(artifact)
        if former is not None:
            words = f"{stage} was made from {former}, which nothing goes by any more"
            yield StaleCause("stage", stage, words)
        elif not is_of_now(artifact):
            yield stage_raised(stage, int(artifact.predicate["stage_version"]), version_of(stage))


def _content_of(spec: VariantSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json")


def _at(tree: Any, field: str | Iterable[str]) -> Any:
    for name in field.split(".") if isinstance(field, str) else field:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def _corpus(made: Mapping[str, Artifact], now: CorpusNow | None, spec: VariantSpec) -> Iterator[StaleCause]:
    mixture, general = made.get(TRAINING_MIXTURE.name), spec.data.general
    if now is None or mixture is None or general is None or general.corpus is None:
        return
    yield from now.causes
    if now.digest is not None and mixture.inputs.get(GENERAL_CORPUS.name) != now.digest:
        yield StaleCause("corpus", general.corpus, f"the corpus {general.corpus} was made again")


def _sources(
    store: Store, prefix: str, version: VersionArtifacts, now: Sequence[Any] | None
) -> Iterator[StaleCause]:
    """Return the files that changed, by now or by the newest run, since the run of the version found them."""
    newest, then = version.heads.get(DECLARATION.name), version.sources_then
    if now is None and newest is not None:
        now = content_of(newest)["sources"]
    if now is not None and then is not None and sha256_json(now) != then:
        before = _frozen(store, prefix, then)
        names = _other_files(before, now) if before else _names(now)
        yield from (StaleCause("source", name, f"{name} changed") for name in dict.fromkeys(names))


def _frozen(store: Store, prefix: str, digest: str) -> list[Any] | None:
    """Return the fingerprints of that digest, of any declaration of the variant that was frozen."""
    frozen = (content["sources"] for content in frozen_declarations(store, prefix))
    return next((list(sources) for sources in frozen if sha256_json(sources) == digest), None)


def _other_files(then: Iterable[Any], now: Iterable[Any]) -> list[str]:
    before, after = ([entry for source in side for entry in source] for side in (then, now))
    return _names([[entry for entry in (*after, *before) if (entry in before) != (entry in after)]])


def _names(sources: Iterable[Any]) -> list[str]:
    return [str(entry.get("path", entry.get("repo"))) for source in sources for entry in source]


def _base(store: Store, declared: Declared, version: VersionArtifacts) -> Iterator[StaleCause]:
    """Return the cause if the base changed: by its parent's release, or as the newest run found it."""
    base, newest = version.artifacts.get(BASE_MODEL.name), version.heads.get(BASE_MODEL.name)
    if base is None:
        return
    moved = list(parents_moved(store, declared.key, base))
    yield from moved
    if not moved and newest is not None and newest.digest != base.digest:
        what = str(declared.spec.base_model.source or declared.spec.base_model.variant)
        yield StaleCause("base", what, f"{what} is another")
