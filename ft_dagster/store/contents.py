"""Lists all that lies in a store: under each key an artifact and its attempts, beside them the records.

Reads every name and every manifest, and no payload. For who looks after a store; no stage asks for it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ft_dagster.errors import UserError
from ft_dagster.row_choices import UsageBy
from ft_dagster.stage_entries import BASE_MODEL, ENTRIES
from ft_dagster.store.artifacts import Artifact, Place, Removed, stated
from ft_dagster.store.blobs import SHARED, Store, StoredFile
from ft_dagster.store.heads import tenant_name

RECORDS = "records"  # heads, release logs, tries, the package's source
MANIFEST = "manifest.json"
AT_ONCE = 64  # manifests read from a remote store together
# Of whichever stage: one that this version does not know may have made what a release stands on.
_KEYED = re.compile(
    r"(?P<prefix>.+?)/(?P<stage>[a-z_]+)/(?P<key>[0-9a-f]{64})/"
    r"(?P<rest>manifest(?:-[0-9]+)?\.json|claims/.+|[^/]+/(?:payload|evidence)/.+)"
)


@dataclass(frozen=True)
class Keyed:
    """Holds what lies under one key. `files`: by their path there. `artifact`: None before a commit, where it
    was removed, and where the manifest cannot be read (`damaged`). `removed`: what stood before it.
    """

    place: Place
    files: dict[str, StoredFile]
    artifact: Artifact | None = None
    removed: tuple[Removed, ...] = ()
    damaged: UserError | None = None

    @property
    def size(self) -> int:
        """Return the bytes of everything under the key."""
        return sum(file.size for file in self.files.values())

    @property
    def is_older(self) -> bool:
        """Say whether an older version of the stage, or a stage that is gone, made the artifact: no run asks
        for it.
        """
        made, current = self.artifact, ENTRIES.get(self.place.stage)
        return made is not None and (current is None or made.predicate["stage_version"] < current.version)

    @property
    def attempts(self) -> dict[str, list[StoredFile]]:
        """Return the files of each attempt, by its name; the committed one is among them."""
        found = defaultdict(list)
        for path, file in self.files.items():
            attempt, _, below = path.partition("/")
            if below.startswith(("payload/", "evidence/")):
                found[attempt].append(file)
        return dict(found)

    @property
    def used(self) -> float:
        """Return when the artifact was last written or claimed, in seconds since 1970 (see `removal`)."""
        if self.artifact is None:
            return 0.0
        attempt = str(self.artifact.predicate["attempt"])
        manifest = PurePosixPath(self.artifact.manifest_path).name
        return max(
            (
                file.modified
                for path, file in self.files.items()
                if path == manifest or path.startswith((f"{attempt}/", f"claims/{attempt}/"))
            ),
            default=0.0,
        )

    @property
    def unfinished(self) -> dict[str, list[StoredFile]]:
        """Return the attempts that nothing ever committed: in progress, given up, or second to another
        writer.
        """
        committed = {one.predicate["attempt"] for one in self.committed}
        return {} if self.damaged else {n: files for n, files in self.attempts.items() if n not in committed}

    @property
    def committed(self) -> list[Artifact]:
        """Return all that was ever committed, the removed ones first."""
        return [*(one.artifact for one in self.removed), *([self.artifact] if self.artifact else [])]

    @property
    def kept_base(self) -> int:
        """Return the bytes of the copy that `base_model.keep` asked for."""
        copies = (file for path, file in self.files.items() if "/evidence/files/" in path)
        return sum(file.size for file in copies) if self.place.stage == BASE_MODEL.name else 0


@dataclass(frozen=True)
class Contents:
    """Holds all files of a store. `keyed`: by place. `records`: every other file."""

    keyed: dict[Place, Keyed] = field(default_factory=dict)
    records: list[StoredFile] = field(default_factory=list)


def contents_of(store: Store, stages: Collection[str] | None = None) -> Contents:
    """Read all of a store as it is now; what is written meanwhile may be in it or not. `stages`: those whose
    manifests are wanted; None: all.
    """
    files: dict[Place, dict[str, StoredFile]] = defaultdict(dict)
    records = []
    for file in store.walk():
        found = _KEYED.fullmatch(file.path)
        if found is None:
            records.append(file)
        elif stages is None or found["stage"] in stages:
            files[Place(found["prefix"], found["stage"], found["key"])][found["rest"]] = file
    return Contents({keyed.place: keyed for keyed in _with_manifests(store, files)}, records)


def _with_manifests(store: Store, files: dict[Place, dict[str, StoredFile]]) -> Iterator[Keyed]:
    committed = [place for place, inside in files.items() if MANIFEST in inside]
    yield from (Keyed(place, inside) for place, inside in files.items() if MANIFEST not in inside)
    for first in range(0, len(committed), AT_ONCE):
        places = committed[first : first + AT_ONCE]
        contents = store.read_each([place.manifest for place in places])
        for place, content in zip(places, contents, strict=True):
            yield _keyed(store, place, files[place], content)


def _keyed(store: Store, place: Place, files: dict[str, StoredFile], content: bytes | None) -> Keyed:
    removed: list[Removed] = []
    try:
        while content is not None:  # else removed since it was listed, or not made again
            found = stated(store, place, content, len(removed) + 1)
            if isinstance(found, Artifact):
                return Keyed(place, files, found, tuple(removed))
            removed.append(found)
            (content,) = store.read_each([place.manifest_of(len(removed) + 1)])
    except UserError as error:
        return Keyed(place, files, removed=tuple(removed), damaged=error)
    return Keyed(place, files, removed=tuple(removed))


@dataclass(frozen=True)
class Usage:
    """Is a row of `store du`, in bytes. `older_versions`, `kept_bases`, `unfinished`: parts of `bytes`."""

    name: str
    artifacts: int
    bytes: int
    older_versions: int
    kept_bases: int
    unfinished: int


def usage(contents: Contents, by: UsageBy) -> list[Usage]:
    """Sum up what each tenant, variant or stage occupies, the largest first; what is nobody's own is
    `shared`. The largest first.
    """
    keyed: dict[str, list[Keyed]] = defaultdict(list)
    records: dict[str, int] = defaultdict(int)
    for each in contents.keyed.values():
        keyed[each.place.stage if by is UsageBy.STAGE else _owner(each.place.path, by)].append(each)
    for file in contents.records:
        records[RECORDS if by is UsageBy.STAGE else _owner(file.path, by)] += file.size
    rows = [_usage(name, keyed.get(name, []), records.get(name, 0)) for name in {**keyed, **records}]
    return sorted(rows, key=lambda row: (-row.bytes, row.name))


def _usage(name: str, keyed: Sequence[Keyed], records: int) -> Usage:
    return Usage(
        name,
        artifacts=sum(each.artifact is not None for each in keyed),
        bytes=sum(each.size for each in keyed) + records,
        older_versions=sum(each.size for each in keyed if each.is_older),
        kept_bases=sum(each.kept_base for each in keyed),
        unfinished=sum(file.size for each in keyed for part in each.unfinished.values() for file in part),
    )


def _owner(path: str, by: UsageBy) -> str:
    parts = path.split("/")
    if parts[0] != "tenants" or len(parts) < 2:
        return SHARED
    return tenant_name(parts[1]) if by is UsageBy.TENANT else ".".join(parts[1:3])
