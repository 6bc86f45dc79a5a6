"""Decides whether a variant's artifacts are those that would be made now, and if not, names the root causes.

Each artifact of a version is held against the inputs that its stage would ask for today, part by part of its
key: what is declared is computed anew, artifacts are followed through the graph, what the host said is as it
was then, and what follows from files is computed as far as none is opened. No payload, no base and no process
is touched. What lies at sources and bases is listed elsewhere (`fleet.refresh.watching`). Before a run is
called unneeded, its whole chain is looked at by the keys themselves, and bytes are read (`up_to_date`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.lineage.frozen import content_of, frozen_declarations
from ft_dagster.lineage.graph import of_equal_bytes
from ft_dagster.lineage.stale import StaleCause, stage_raised
from ft_dagster.models.derived import parents_moved
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.settings import Settings
from ft_dagster.spec import Declared, VariantKey, VariantSpec
from ft_dagster.spec.policy import Breach
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
from ft_dagster.stages.general_corpus import corpora_stand
from ft_dagster.stages.release import Released, release
from ft_dagster.store import SHARED, Artifact, Store
from ft_dagster.versions.causes import Causes, others
from ft_dagster.versions.look import CorpusNow, FoundNow, Look
from ft_dagster.versions.version_artifacts import VersionArtifacts
from ft_dagster.workspace.keyed_inputs import (
    Part,
    Unopened,
    parts_of,
)
from ft_dagster.workspace.stage_version import former_input, is_of_now
from ft_dagster.workspace.workspace import Workspace

log = logging.getLogger(__name__)
ORDER = tuple(ENTRIES)


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
    told = Causes(declared.spec, version)

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
