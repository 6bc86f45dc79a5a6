"""Walks the graph of artifacts: their inputs, all that is above and below them, and the versions that they
are.

A manifest names each input by digest and, since version 0.2, by the sha256 of the input's own manifest. The
digest alone does not say which of several artifacts with equal bytes was used; `named` says it for every
walk: through the store itself (`StoredGraph`), what was listed of it (`ListedGraph`), or an audit's index.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple, Protocol, TypeVar

from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import RELEASE, ReleaseEntry
from ft_dagster.stage_entries import (
    BASE_MODEL,
    BASE_TEXT,
    ENTRIES,
    EVALUATION,
    FINE_TUNED_MODEL,
    GENERAL_CORPUS,
    MODEL_EXPORT,
    names_of,
)
from ft_dagster.store.artifacts import Artifact, Place, find_artifact
from ft_dagster.store.attempts import digests_folder, note_digest
from ft_dagster.store.blobs import SHARED, Store
from ft_dagster.store.committed import committed_in

CORPORA = f"{SHARED}/corpora"
PLACES = "places"  # a figure: stage -> [prefix, key] of inputs that are another variant's


class Input(NamedTuple):
    """Names an input as a manifest does. `manifest`: sha256 of its own; None where that was not recorded."""

    digest: str
    manifest: str | None


class Node(Protocol):
    """Describes an artifact as a store or an index has it."""

    @property
    def place(self) -> Place: ...
    @property
    def digest(self) -> str: ...
    @property
    def manifest(self) -> str: ...


N = TypeVar("N", bound=Node)
K = TypeVar("K")


class Graph(Protocol[N]):
    """Finds the inputs of artifacts."""

    def inputs(self, artifact: N) -> Mapping[str, Input]:
        """Return all inputs by their names, also those that are no artifacts."""

    def find(self, artifact: N, name: str, one: Input) -> Sequence[N]:
        """Return the artifact that an input names; several where nobody can tell which, none where it is
        gone.
        """


class Descent(Protocol[N]):
    """Finds what was made of artifacts."""

    def made_of(self, artifact: N, stage: str | None = None) -> Sequence[N]:
        """Return the artifacts that name one, or its equal of the same variant: an equal has nothing made
        again, as keys go by digests. `stage`: of this stage alone.
        """


def inputs_of(artifact: Artifact) -> dict[str, Input]:
    """Return what a manifest names as inputs, by their names."""
    manifests = artifact.input_manifests
    return {name: Input(digest, manifests.get(name)) for name, digest in artifact.inputs.items()}


def named(found: Sequence[N], prefix: str, manifest: str | None) -> Sequence[N]:
    """Choose, of artifacts with the digest of an input, what an artifact below `prefix` names: the one of
    that manifest. Where none is named, or it is gone: those of the same variant and shared ones, else others.
    """
    exact = [each for each in found if each.manifest == manifest]
    near = [each for each in found if each.place.prefix == prefix or each.place.prefix.startswith(SHARED)]
    return exact or near or found


def path(graph: Graph[N], artifact: N, *names: str) -> list[N]:
    """Go from input to input by these names, as far as the artifacts stand."""
    found = list[N]()
    for name in names:
        below = found[-1] if found else artifact
        one = graph.inputs(below).get(name)
        above = () if one is None else graph.find(below, name, one)
        if not above:
            break
        found.append(above[0])
    return found


def paths(graph: Graph[N], artifact: N, *names: str) -> Iterator[list[N]]:
    """Go a `path` to its end, from there the same again, and so on as far as the artifacts stand."""
    while len(found := path(graph, artifact, *names)) == len(names):
        yield found
        artifact = found[-1]


def input_of(graph: Graph[N], artifact: N, *names: str) -> N | None:
    """Find the artifact that is the last on a `path`; None where it, or one before it, is gone."""
    found = path(graph, artifact, *names)
    return found[-1] if len(found) == len(names) else None


def needed(graph: Graph[N], artifact: N, name: str) -> N:
    """Find the artifact that an input names. Raises UserError where it is gone."""
    found = input_of(graph, artifact, name)
    if found is None:
        one = graph.inputs(artifact).get(name)
        problem = f"the {name} that {artifact.place.stage} was made of is gone"
        fix = "Restore it from a backup"
        raise UserError(problem, value="" if one is None else one.digest[:12], fix=fix)
    return found


def walk(starts: Iterable[N], step: Callable[[N], Iterable[N]]) -> Iterator[tuple[N, N | None]]:
    """Yield (artifact, the one before it) of the starts and all that steps lead to, each once."""
    seen = set[tuple[Place, str]]()
    waiting = deque[tuple[N, N | None]]((start, None) for start in starts)
    while waiting:
        artifact, before = waiting.popleft()
        if (artifact.place, artifact.manifest) not in seen:
            seen.add((artifact.place, artifact.manifest))
            yield artifact, before
            waiting.extend((each, artifact) for each in step(artifact))


def inputs(graph: Graph[N], artifact: N, names: Iterable[str] | None = None) -> Iterator[N]:
    """Yield the artifacts that these of the inputs name (None: all), as far as they stand."""
    known = graph.inputs(artifact)
    for name in known if names is None else names:
        if name in known:
            yield from graph.find(artifact, name, known[name])


def inputs_among(artifacts: Mapping[str, Artifact], artifact: Artifact) -> list[Artifact]:
    """Return those of a version's artifacts, by stage, that one of them was made of."""
    return [artifacts[name] for name in artifact.inputs if name in artifacts]


def missing(graph: Graph[N], artifact: N) -> dict[str, Input]:
    """Return the inputs that name an artifact of which nothing is known any more."""
    return {
        name: one
        for name, one in graph.inputs(artifact).items()
        if (one.manifest or name in ENTRIES) and not graph.find(artifact, name, one)
    }


def inputs_first(starts: Iterable[K], inputs: Callable[[K], Iterable[K]]) -> list[K]:
    """Return the starts and all that they were made of, each once and after its inputs."""
    ordered = dict[K, None]()
    waiting, seen = [(start, False) for start in starts], set[K]()
    while waiting:
        one, inputs_are_in = waiting.pop()
        if inputs_are_in:
            ordered[one] = None
        elif one not in seen:
            seen.add(one)
            waiting += [(one, True), *((above, False) for above in inputs(one))]
    return list(ordered)


def ancestors(graph: Graph[N], starts: Iterable[N]) -> Iterator[N]:
    """Yield the starts and all that they were made of."""
    return (artifact for artifact, _ in walk(starts, lambda artifact: inputs(graph, artifact)))


def descendants(
    graph: Descent[N], starts: Iterable[N], allows: Callable[[N], bool] = lambda artifact: True
) -> Iterator[N]:
    """Yield the starts and all that was made of them; `allows`: what may be told."""
    found = walk(starts, lambda artifact: filter(allows, graph.made_of(artifact)))
    return (artifact for artifact, _ in found)


def made_through(graph: Descent[N], artifact: N, *stages: str) -> list[N]:
    """Find what was made of an artifact by the first stage, of that by the next, and so on to the last."""
    found = [artifact]
    for stage in stages:
        found = [each for one in found for each in graph.made_of(one, stage)]
    return found


def parts_of_version(
    graph: Graph[Artifact], roots: Iterable[Artifact], stages: Container[str]
) -> dict[str, Artifact]:
    """Find one artifact a stage of these that the roots were made of, the roots among them, but nothing
    that a base was made of, which is its parent's or the platform's. What is made last is asked first: a plan
    of equal bytes may be of other rows than the weights.
    """
    found = {root.place.stage: root for root in roots}
    asked, due, order = set(found), list(found.values()), list(ENTRIES)
    while due:
        due.sort(key=lambda made: order.index(made.place.stage))
        artifact = due.pop()
        for name in artifact.inputs if artifact.place.stage != BASE_MODEL.name else ():
            stage = stage_of(artifact, name)
            if stage in stages and stage not in asked:
                asked.add(stage)
                for above in inputs(graph, artifact, (name,)):
                    found[stage] = above
                    due.append(above)
    return found


def stage_of(artifact: Artifact, name: str) -> str:
    """Name the stage by which an input was made: the general text of a mixture may be written by its base."""
    if name != GENERAL_CORPUS.name:
        return name
    general = artifact.spec.get("spec", {}).get("data", {}).get("general")
    return BASE_TEXT.name if general and general.get("corpus") is None else name


def exports_of(exports: Iterable[N], entry: ReleaseEntry) -> list[N]:
    """Choose, of a variant's exports, that of a release: by its key, since others may have the same bytes. Of
    those that were made under the key, the one that was released comes last.
    """
    found = [e for e in exports if (e.place.key, e.digest) == (entry.export_key, entry.export)]
    return sorted(found, key=lambda export: export.manifest == entry.export_manifest)


def released_export(store: Store, prefix: str, entry: ReleaseEntry) -> Artifact | None:
    """Find the export of a release of the variant below a prefix; None where it is gone, or is another."""
    found = find_artifact(store, Place(prefix, MODEL_EXPORT.name, entry.export_key))
    named = {MODEL_EXPORT.name: entry.export, FINE_TUNED_MODEL.name: entry.weights}
    same = found is not None and named.items() <= {MODEL_EXPORT.name: found.digest, **found.inputs}.items()
    return found if same else None


def released_evaluation(store: Store, prefix: str, entry: ReleaseEntry) -> Artifact | None:
    """Find the evaluation whose verdict let a release be; None where it is gone."""
    return find_digest(store, [prefix], EVALUATION.name, entry.evaluation, entry.evaluation_manifest)


def versions_of(
    store: Store, prefix: str, log: Iterable[ReleaseEntry], artifacts: Iterable[Artifact]
) -> list[ReleaseEntry]:
    """Find the releases that weights and exports of a variant are. An export is its release, and any of equal
    bytes that was made of the same weights: those bytes are released once. Equal weights of other inputs, and
    what was exported of them, are no release.
    """
    graph = StoredGraph(store)

    def place_of_weights(made: Artifact) -> Place | None:
        if made.place.stage == FINE_TUNED_MODEL.name:
            return made.place
        above = input_of(graph, made, FINE_TUNED_MODEL.name)
        return None if above is None else above.place

    def is_of(entry: ReleaseEntry, alike: Sequence[Artifact]) -> bool:
        if exports_of(alike, entry):
            return True
        export = released_export(store, prefix, entry) if alike else None
        weights = None if export is None else place_of_weights(export)
        return weights is not None and weights in map(place_of_weights, alike)

    known = [each for each in artifacts if each.place.stage in (FINE_TUNED_MODEL.name, MODEL_EXPORT.name)]
    released = [entry for entry in log if entry.action == RELEASE]
    return [
        entry
        for entry in released
        if is_of(entry, [each for each in known if each.digest in (entry.weights, entry.export)])
    ]


@dataclass(frozen=True)
class StoredGraph:
    """Gives the graph of a store as its manifests say it; each step reads the manifest that it comes to."""

    store: Store
    inputs = staticmethod(inputs_of)

    def find(self, artifact: Artifact, name: str, one: Input) -> Sequence[Artifact]:
        """Find an input that is named as its stage, or as what that stands for: by the same variant, by the
        one whose release a base starts from, or for all.
        """
        stages = (stage_of(artifact, name), *names_of(lambda entry: entry.given_as == name))
        parent = artifact.figures.get("parent") if artifact.place.stage == BASE_MODEL.name else None
        places = parent[PLACES] if parent else artifact.figures.get(PLACES, {})
        if name in places:
            prefix, key = places[name]
            found = find_artifact(self.store, Place(prefix, name, key))
            if found is not None and found.digest == one.digest:
                return (found,)
        own = places[MODEL_EXPORT.name][0] if parent else artifact.place.prefix
        for stage in dict.fromkeys(stages):
            corpora = self.store.names(CORPORA) if stage == GENERAL_CORPUS.name else ()
            prefixes = [f"{CORPORA}/{each}" for each in corpora] or dict.fromkeys((own, SHARED))
            found = find_digest(self.store, prefixes, stage, one.digest, one.manifest)
            if found is not None:
                return (found,)
        return ()


class ListedGraph:
    """Gives the graph of artifacts that were read before; it asks no store."""

    def __init__(self, artifacts: Iterable[Artifact]) -> None:
        self._by_digest = defaultdict[str, list[Artifact]](list)
        for artifact in artifacts:
            self._by_digest[artifact.digest].append(artifact)

    inputs = staticmethod(inputs_of)

    def find(self, artifact: Artifact, name: str, one: Input) -> Sequence[Artifact]:
        return self.named(artifact.place.prefix, *one)

    def named(self, prefix: str, digest: str, manifest: str | None = None) -> Sequence[Artifact]:
        """Find what is named below a prefix, of all that were listed; see the function of this name."""
        return named(self._by_digest.get(digest, ()), prefix, manifest)

    @cached_property
    def _by_input(self) -> Mapping[str, Sequence[Artifact]]:
        found = defaultdict[str, list[Artifact]](list)
        for artifact in chain.from_iterable(self._by_digest.values()):
            for digest in set(artifact.inputs.values()):
                found[digest].append(artifact)
        return found

    def with_input(self, digest: str, stage: str) -> list[Artifact]:
        """Find what a stage made of an input with this digest, which may be gone, of all that were listed."""
        return [each for each in self._by_input.get(digest, ()) if each.place.stage == stage]

    def made_of(self, artifact: Artifact, stage: str | None = None) -> Sequence[Artifact]:
        """Find what was made of an artifact, of all that were listed; see `Descent`."""
        own, digest = artifact.place.prefix, artifact.digest
        return [
            each
            for each in self._by_input.get(digest, ())
            if stage in (None, each.place.stage)
            and (
                each.place.prefix == own
                or any(
                    artifact in self.find(each, name, one)
                    for name, one in inputs_of(each).items()
                    if one.digest == digest
                )
            )
        ]


def made_in(store: Store, prefix: str, stage: str, digests: Mapping[str, str]) -> Iterator[Artifact]:
    """Yield all of a stage of a variant that was ever made of inputs with these digests, by their names."""
    found = (each for each in committed_in(store, prefix, stage) if isinstance(each, Artifact))
    return (each for each in found if digests.items() <= each.inputs.items())


def find_digest(
    store: Store, prefixes: Iterable[str], stage: str, digest: str, manifest: str | None = None
) -> Artifact | None:
    """Return the committed artifact of a stage with this digest, from the first of the prefixes that has one.
    `manifest`: sha256 of its manifest, where several may have the digest; of another where none has that.

    By what was noted at the commit; where nothing was, as in a store of an earlier version, all artifacts of
    the stage are looked at, and it is noted then. Raises UserError for a manifest that cannot be read, where
    it is in none of the others.
    """
    known = list(prefixes)
    with suppress(UserError):
        found = _chosen(_standing(store, _noted(store, known, stage, digest), digest), manifest)
        if found is not None:
            return found
    found = _chosen(_looked_for(store, known, stage, digest), manifest)
    if found is not None:
        with suppress(OSError):  # who may only read finds it without
            note_digest(store, found)
    return found


def of_equal_bytes(
    store: Store, prefixes: Iterable[str], stage: str, digest: str, **inputs: str
) -> Iterator[Artifact]:
    """Return all artifacts of a stage that were noted with this digest at their commit, and made of `inputs`
    with these digests; those that cannot be read are left out.
    """
    found = _standing(store, _noted(store, prefixes, stage, digest), digest)
    return (e for e in found if isinstance(e, Artifact) and inputs.items() <= e.inputs.items())


def _noted(store: Store, prefixes: Iterable[str], stage: str, digest: str) -> Iterator[Place]:
    for prefix in prefixes:
        for key in store.names(digests_folder(prefix, stage, digest)):
            yield Place(prefix, stage, key)


def _looked_for(
    store: Store, prefixes: Iterable[str], stage: str, digest: str
) -> Iterator[Artifact | UserError]:
    """Look among all artifacts of the stage; one that was made so stands if it is still there."""
    for prefix in prefixes:
        for one in committed_in(store, prefix, stage):
            if isinstance(one, UserError):
                yield one
            elif one.digest == digest:
                yield from _standing(store, [one.place], digest)


def _standing(store: Store, places: Iterable[Place], digest: str) -> Iterator[Artifact | UserError]:
    """Return what stands there with this digest; of a manifest that cannot be read why not."""
    for place in places:
        try:
            found = find_artifact(store, place)
        except UserError as error:
            yield error
        else:
            yield from () if found is None or found.digest != digest else (found,)


def _chosen(found: Iterable[Artifact | UserError], manifest: str | None) -> Artifact | None:
    """Return the one with the manifest, else the first. Raises the first error where there is none."""
    other: Artifact | None = None
    damaged: UserError | None = None
    for one in found:
        if isinstance(one, UserError):
            damaged = damaged or one
        elif manifest in (None, one.manifest):
            return one
        else:
            other = other or one
    if other is None and damaged is not None:
        raise damaged
    return other
