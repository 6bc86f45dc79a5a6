"""What of a store nothing needs any more: no head, no release, no parent, nothing that is being made.

Reached are the newest artifacts of every variant, corpus and experiment, every released version with the
evaluations that speak for it, and all that any of these were made from, in other variants too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from ft_dagster.lineage.release import WEIGHTS, history
from ft_dagster.store.artifacts import Artifact, Place, find_artifact
from ft_dagster.store.blobs import Store, StoredFile
from ft_dagster.store.contents import MANIFEST, Contents, Keyed
from ft_dagster.store.heads import SHARED, read_head

ByDigest = dict[str, list[Artifact]]
# What a release was held against production by; the log names the weights.
PRODUCTION = ("production_evaluation", "candidate_evaluation")


@dataclass(frozen=True)
class Unreached:
    """An artifact, or an attempt at one (`attempt`), that nothing needs. `bytes`: without its manifest, which
    stays. `written`: its newest file, seconds since 1970.
    """

    place: Place
    attempt: str
    committed: bool
    bytes: int
    written: float


def unreached(
    store: Store, contents: Contents, being_made: Callable[[Place], bool], before: float
) -> list[Unreached]:
    """The largest first. `being_made`: whether somebody is building under a key now. `before`: what was
    written later, in seconds since 1970, is left alone: somebody may be about to use it.

    Raises UserError for a head, a log or a manifest that cannot be read: who knows what it reaches.
    """
    reached = _reached(store, contents)
    found = [
        one
        for keyed in contents.keyed.values()
        if not being_made(keyed.place)
        for one in _parts(keyed, keyed.place in reached)
        if one.written < before and (one.committed or _is_litter(store, one))
    ]
    return sorted(found, key=lambda one: (-one.bytes, one.place.path))


def _parts(keyed: Keyed, reached: bool) -> Iterator[Unreached]:
    """The attempts under a key that nothing needs."""
    for name, files in keyed.attempts.items():
        committed = name not in keyed.unfinished
        if committed and reached:
            continue
        dated = [*files, keyed.files[MANIFEST]] if committed else files
        size, written = sum(file.size for file in files), max(file.modified for file in dated)
        yield Unreached(keyed.place, name, committed, size, written)


def _is_litter(store: Store, one: Unreached) -> bool:
    """Whether an attempt was not committed since it was listed either."""
    found = find_artifact(store, one.place)
    return found is None or found.predicate["attempt"] != one.attempt


def _reached(store: Store, contents: Contents) -> set[Place]:
    damaged = next((keyed.damaged for keyed in contents.keyed.values() if keyed.damaged), None)
    if damaged is not None:
        raise damaged
    artifacts = [keyed.artifact for keyed in contents.keyed.values() if keyed.artifact is not None]
    by_digest: ByDigest = defaultdict(list)
    for artifact in artifacts:
        by_digest[artifact.digest].append(artifact)
    roots = [*_heads(store, contents.records), *_released(store, contents.records, by_digest)]
    reached = _closure(roots, by_digest)
    weights = {artifact.digest for artifact in artifacts if artifact.place in reached}
    held = [a for a in artifacts if a.place.stage in PRODUCTION and a.inputs.get(WEIGHTS) in weights]
    return reached | _closure(held, by_digest)


def _closure(roots: Iterable[Artifact], by_digest: ByDigest) -> set[Place]:
    """The roots and all that they were made from."""
    reached: set[Place] = set()
    waiting = list(roots)
    while waiting:
        artifact = waiting.pop()
        if artifact.place not in reached:
            reached.add(artifact.place)
            prefix = artifact.place.prefix
            waiting += [a for digest in artifact.inputs.values() for a in _named(digest, prefix, by_digest)]
    return reached


def _named(digest: str, prefix: str, by_digest: ByDigest) -> list[Artifact]:
    """The artifacts of a digest that one below `prefix` names: of its variant and shared ones, else another
    variant's, its parent's.
    """
    found = by_digest.get(digest, [])
    near = [each for each in found if each.place.prefix == prefix or each.place.prefix.startswith(SHARED)]
    return near or found


def _heads(store: Store, records: Iterable[StoredFile]) -> Iterator[Artifact]:
    for file in records:
        path = PurePosixPath(file.path)
        if path.parent.name == "heads" and path.suffix == ".json":
            head = read_head(store, str(path.parent.parent), path.stem)
            if head is not None:
                yield head


def _released(store: Store, records: Iterable[StoredFile], by_digest: ByDigest) -> Iterator[Artifact]:
    """The export, the weights and the evaluation of every version of every variant."""
    logs = {str(PurePosixPath(file.path).parent) for file in records}
    prefixes = {log.removesuffix("/releases") for log in logs if log.endswith("/releases")}
    for prefix in sorted(prefixes):
        for entry in history(store, prefix):
            for digest in (entry.export, entry.weights, entry.evaluation):
                yield from _named(digest, prefix, by_digest)
