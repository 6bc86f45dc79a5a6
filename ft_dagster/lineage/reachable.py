"""Finds what of a store nothing needs any more: no head, no release, no parent, nothing that is being made.

Reached are the newest artifacts of every variant, corpus and experiment, every released version that
retention keeps with the evaluations that speak for it, what is young or on hold, and all that any of these
were made from, in other variants too; of a variant's reference the answers alone. Of artifacts with equal
bytes the one is reached whose manifest is named (`graph.named`), so that rows of an old version do not stay
because a later plan came out equal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ft_dagster.lineage.entry import RELEASE
from ft_dagster.lineage.frozen import named_reference
from ft_dagster.lineage.graph import ListedGraph, ancestors, inputs
from ft_dagster.lineage.log import read_log
from ft_dagster.lineage.retention import Rules, kept_versions
from ft_dagster.lineage.served import versions_in
from ft_dagster.stage_entries import (
    BASE_MODEL,
    EVALUATION,
    PRODUCTION_EVALUATION,
    PROMPTED_BASE,
    TASK_DATASET,
    names_of,
)
from ft_dagster.store.artifacts import Artifact, Place, generations
from ft_dagster.store.blobs import Store, StoredFile
from ft_dagster.store.contents import Contents, Keyed
from ft_dagster.store.heads import read_head
from ft_dagster.store.removal import outlives, removal_claim

# What a release was held against production by; the log names the weights.
PRODUCTION = names_of(lambda entry: entry.judges == "production")
AHEAD = "ask-base"  # heads of what was made ahead of a run, which keep nothing from retention
PROMPTED_OF = (BASE_MODEL.name, TASK_DATASET.name)  # what is kept as long as both are


@dataclass(frozen=True)
class Unreached:
    """Describes an artifact, or an attempt at one (`attempt`) that is none, that nothing needs; also one
    whose removal was not done to its end. `files`: below the key's folder, those that go. `bytes`: of these.
    `written`: or used last, seconds since 1970. `above`: where what it was made from stands.
    """

    place: Place
    attempt: str
    artifact: Artifact | None
    files: tuple[str, ...]
    bytes: int
    written: float
    above: tuple[Place, ...] = ()

    @property
    def committed(self) -> bool:
        return self.artifact is not None


def unreached(
    store: Store, contents: Contents, being_made: Callable[[Place], bool], rules: Rules
) -> list[Unreached]:
    """Return what nothing needs, the largest first. `being_made`: whether somebody is building under a key
    now.

    Raises UserError for a head, a log or a manifest that cannot be read: who knows what it reaches.
    """
    made = {place for place in contents.keyed if being_made(place)}
    needed, graph = reached(store, contents, rules, made), ListedGraph(_standing(contents))
    found = [
        one
        for keyed in contents.keyed.values()
        if keyed.place not in made and not rules.for_path(keyed.place.path).hold
        for one in _parts(keyed, keyed.place in needed, graph)
        if one.committed or (one.written < rules.before(one.place.path) and is_litter(store, one))
    ]
    return sorted(found, key=lambda one: (-one.bytes, one.place.path))


def _parts(keyed: Keyed, reached: bool, graph: ListedGraph) -> Iterator[Unreached]:
    """Yield the attempts under a key that nothing needs, with their files that go."""
    committed = {str(one.predicate["attempt"]): one for one in keyed.committed}
    for name, files in keyed.attempts.items():
        artifact = committed.get(name)
        stands = artifact is not None and artifact is keyed.artifact
        folder = f"{keyed.place.path}/{name}/"
        going = [
            file
            for file in files
            if artifact is None or not outlives(keyed.place, file.path.removeprefix(folder))
        ]
        if (reached and stands) or (artifact is not None and not stands and not going):
            continue
        written = keyed.used if stands else max(file.modified for file in files)
        below = tuple(file.path.removeprefix(f"{keyed.place.path}/") for file in going)
        above = () if artifact is None else tuple(each.place for each in inputs(graph, artifact))
        yield Unreached(keyed.place, name, artifact, below, sum(f.size for f in going), written, above)


def is_litter(store: Store, one: Unreached) -> bool:
    """Say whether an attempt was not committed since it was listed either, nor removed after that."""
    found = (each if isinstance(each, Artifact) else each.artifact for each in generations(store, one.place))
    return all(artifact.predicate["attempt"] != one.attempt for artifact in found)


def reached(
    store: Store, contents: Contents, rules: Rules, made: Collection[Place] = frozenset()
) -> set[Place]:
    """Return where what stands is needed. `made`: under which keys somebody is building now. Raises
    UserError, see `unreached`.
    """
    damaged = next((keyed.damaged for keyed in contents.keyed.values() if keyed.damaged), None)
    if damaged is not None:
        raise damaged
    artifacts = _standing(contents)
    graph = ListedGraph(artifacts)
    roots = [
        *_heads(store, contents.records),
        *_released(store, contents.records, graph, rules),
        *_not_to_go_yet(store, contents, rules, made),
    ]
    found = {artifact.place for artifact in ancestors(graph, roots)}
    needed = [artifact for artifact in artifacts if artifact.place in found]
    held = [each for one in needed for stage in PRODUCTION for each in graph.made_of(one, stage)]
    known = {artifact.digest for artifact in needed}
    held += [
        each
        for one in needed
        for each in graph.made_of(one, PROMPTED_BASE.name)
        if known.issuperset(each.inputs[name] for name in PROMPTED_OF)
    ]
    beneath = [each for one in held for each in inputs(graph, one) if each.digest not in known]
    kept = _of_references(store, contents.records, artifacts)
    return found | {each.place for each in (*held, *ancestors(graph, beneath), *kept)}


def _standing(contents: Contents) -> list[Artifact]:
    return [keyed.artifact for keyed in contents.keyed.values() if keyed.artifact is not None]


def _not_to_go_yet(
    store: Store, contents: Contents, rules: Rules, made: Collection[Place]
) -> Iterator[Artifact]:
    """Yield what is young, on hold, or made once more."""
    for keyed in contents.keyed.values():
        path = keyed.place.path
        if keyed.artifact is not None and (
            keyed.place in made
            or rules.for_path(path).hold
            or (keyed.used >= rules.before(path) and not _is_going(store, keyed, keyed.artifact))
        ):
            yield keyed.artifact


def _is_going(store: Store, keyed: Keyed, artifact: Artifact) -> bool:
    """Say whether its removal was claimed and not done: it is young by that claim alone."""
    claims = f"claims/{artifact.predicate['attempt']}/"
    return any(path.startswith(claims) for path in keyed.files) and removal_claim(store, artifact) is not None


def _heads(store: Store, records: Iterable[StoredFile]) -> Iterator[Artifact]:
    for file in records:
        path = PurePosixPath(file.path)
        if path.parent.name == "heads" and path.suffix == ".json" and path.parent.parent.name != AHEAD:
            head = read_head(store, str(path.parent.parent), path.stem)
            if head is not None:
                yield head


def _of_references(
    store: Store, records: Iterable[StoredFile], artifacts: Sequence[Artifact]
) -> Iterator[Artifact]:
    """Yield the answers of every variant's reference, by which later versions are held against it though its
    weights go: of the evaluation that it was released by, and what it was asked since. It is the first
    version, the one that the newest evaluation was declared to be held against, and the one that is declared
    now, against which variants that descend from this one are held.
    """
    graph = ListedGraph(artifacts)
    for prefix in _with_releases(records):
        versions = versions_in(read_log(store, prefix).entries)
        judged = read_head(store, prefix, EVALUATION.name)
        gates = {} if judged is None else judged.spec.get("spec", {}).get("gates", {})
        named = (min(versions, default=0), gates.get("reference"), named_reference(store, prefix))
        for entry in (entry for version, entry in versions.items() if version in named):
            yield from graph.named(prefix, entry.evaluation, entry.evaluation_manifest)
            yield from graph.with_input(entry.weights, PRODUCTION_EVALUATION.name)


def _with_releases(records: Iterable[StoredFile]) -> list[str]:
    """Return the parts of the store that have a release log."""
    logs = {str(PurePosixPath(file.path).parent) for file in records}
    return sorted(log.removesuffix("/releases") for log in logs if log.endswith("/releases"))


def _released(
    store: Store, records: Iterable[StoredFile], graph: ListedGraph, rules: Rules
) -> Iterator[Artifact]:
    """Yield the export, the evaluation and so the weights of every version that is kept, of every
    variant.
    """
    for prefix in _with_releases(records):
        past = read_log(store, prefix).entries
        kept = kept_versions(past, prefix, rules)
        for entry in past:
            if entry.action == RELEASE and entry.version in kept:
                exports = graph.named(prefix, entry.export, entry.export_manifest)
                yield from exports
                yield from graph.named(prefix, entry.evaluation, entry.evaluation_manifest)
                yield from () if exports else graph.named(prefix, entry.weights)
