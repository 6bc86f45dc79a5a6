"""Opens what every question of an audit works with: the store, its index brought up to date, the keys, whose
auditor asks.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ft_dagster.audit.answers import Inclusion, ReleasedAs, Transformed
from ft_dagster.audit.index.artifact_records import StoredFiles, said_by
from ft_dagster.audit.index.follow import LOCK, Followed, Follower
from ft_dagster.audit.index.index import Count, Index, Indexed, tenant_of
from ft_dagster.audit.index.index_file import is_damage, remove_index
from ft_dagster.audit.sought_lines import COLUMNS, readings_of_columns
from ft_dagster.audit.sought_record import TRANSFORM, readings_of
from ft_dagster.data.rows.dataset_io import ORIGINS
from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import RELEASE, ReleaseEntry
from ft_dagster.lineage.graph import exports_of, inputs, inputs_of, paths
from ft_dagster.lineage.log import entry_path
from ft_dagster.provenance.merkle import MerkleTree
from ft_dagster.records.record_keys import SHARED_OWNER, OwnerKeys, keys_of
from ft_dagster.records.record_tree import RecordTree, TreeLeaves
from ft_dagster.settings import Settings
from ft_dagster.spec.keys import HALF
from ft_dagster.stage_entries import (
    BASE_MODEL,
    FINE_TUNED_MODEL,
    GENERAL_CORPUS,
    MODEL_EXPORT,
    TASK_DATASET,
    TRAINING_MIXTURE,
)
from ft_dagster.store import Artifact, Place, Store
from ft_dagster.store.artifacts import Removed
from ft_dagster.store.make import host_lock

# From weights to those that they start from, by inputs.
TO_PARENT = (BASE_MODEL.name, MODEL_EXPORT.name, FINE_TUNED_MODEL.name)
LEAVES_AT_ONCE = 12_000_000  # of trees that are kept in memory, at 37 bytes each
LOOK_THERE = "Look at --project, and at `store` of ft_dagster.yaml; `ft-dagster store du` says what there is"
SHORTEST = 6  # digits of a digest that is given in part


@dataclass
class Audit:
    """Is an open audit; see `open_audit`. `tenant`: whose auditor asks, and so about whom alone it answers;
    None: the platform's. `followed`: what the index had to learn when it was opened.
    """

    settings: Settings
    store: Store
    index: Index
    tenant: str | None = None
    followed: Followed = field(default_factory=lambda: Followed(0, 0, ()))
    _leaves: dict[int, TreeLeaves] = field(default_factory=dict)
    _keys: dict[str, OwnerKeys] = field(default_factory=dict)
    _said: dict[Indexed, Artifact | Removed] = field(default_factory=dict)
    parts: dict[int, Any] = field(default_factory=dict)  # what `parts` read, by the number of a mixture

    @cached_property
    def stored(self) -> StoredFiles:
        return StoredFiles(self.store, self.settings.cache_folder, self._parent)

    def allows(self, artifact: Indexed) -> bool:
        """Say whether the auditor may be told of an artifact: of their own tenant, or shared by all."""
        return self.tenant is None or artifact.tenant in (self.tenant, "")

    def allows_part(self, prefix: str) -> bool:
        """Say the same, as `allows`, of a part of the store."""
        return self.tenant is None or tenant_of(prefix) in (self.tenant, SHARED_OWNER)

    def allowed(self, artifacts: list[Indexed]) -> list[Indexed]:
        return [each for each in artifacts if self.allows(each)]

    def owners(self) -> dict[str, tuple[int, str]]:
        """Return whose records may be looked up: name -> (number in the index, ids of the keys)."""
        return {
            name: owner
            for name, owner in self.index.owners().items()
            if self.tenant is None or name in (self.tenant, "")
        }

    def lost_keys(self) -> list[str]:
        """Say of each key that was found lost when the index was opened, in one line."""
        return [
            f"the key {lost.key} of {lost.owner or 'what is shared'} is no longer in "
            f"{self.settings.keys_folder}, {lost.current} is in its place: nothing can "
            "be proved by the trees that it orders. Restore it from a backup "
            "(`ft-dagster audit key restore FILE`)"
            for lost in self.followed.lost
            if self.tenant in (None, lost.owner) or lost.owner == SHARED_OWNER
        ]

    def keys(self, owner: str) -> OwnerKeys:
        if owner not in self._keys:
            self._keys[owner] = keys_of(self.settings.keys_folder, owner)
        return self._keys[owner]

    def lookups(self, owner: str, name: bytes) -> list[bytes]:
        """Return what the index may know a record or question of an owner by: a lookup a key. By the shared
        ones it knows records of trees whose own key is lost.
        """
        keys = {key.id: key for who in (owner, SHARED_OWNER) for key in self.keys(who).keys}
        return [key.lookup(name) for key in keys.values()]

    def artifact(self, indexed: Indexed) -> Artifact:
        """Return what its manifest says, also where retention removed it; see `said`."""
        found = self.said(indexed)
        return found.artifact if isinstance(found, Removed) else found

    def said(self, indexed: Indexed) -> Artifact | Removed:
        """Read what the manifest of an artifact says, once. Raises UserError where its manifest is gone,
        cannot be read, or is another than the index knows.
        """
        if indexed not in self._said:
            self._said[indexed] = self.read_manifest(indexed)
        return self._said[indexed]

    def forget_said(self, indexed: Indexed) -> None:
        """Read what a manifest says again when it is asked for next."""
        self._said.pop(indexed, None)

    def read_again(self, indexed: Indexed) -> None:
        """Bring what the index says of the records of an artifact up to date: its evidence was amended."""
        self.forget_said(indexed)
        self._leaves.pop(indexed.id, None)
        follower = Follower(self.index, self.stored, self.settings.keys_folder, self.settings.work_folder)
        follower.read_again(self.said(indexed))

    def read_manifest(self, indexed: Indexed) -> Artifact | Removed:
        """Return the artifact as the store has it now; see `said`."""
        found = said_by(self.store, indexed.place, indexed.generation)
        where = self.store.uri(indexed.place.manifest_of(indexed.generation))
        fix = "Restore it from a backup; if it was made again on purpose, `ft-dagster audit index --again`"
        if found is None:
            raise UserError("a manifest is missing", file=where, fix=fix)
        if (found.artifact if isinstance(found, Removed) else found).manifest != indexed.manifest:
            raise UserError("a manifest is another than it was", file=where, fix=fix)
        return found

    def manifest(self, indexed: Indexed) -> bytes:
        """Return the bytes of a manifest as they were committed. Raises UserError, see `said`."""
        found = self.said(indexed)
        if isinstance(found, Removed):
            return found.original
        return self.store.read(indexed.place.manifest_of(indexed.generation))

    def tree(self, artifact: Artifact) -> RecordTree:
        """Return the record tree of an artifact that has one."""
        return RecordTree.read(self.stored.evidence(artifact))

    def leaves(self, indexed: Indexed, artifact: Artifact) -> TreeLeaves:
        """Return the leaves of the record tree of an artifact that has one; what was asked for last stays in
        memory.
        """
        leaves = self._leaves.pop(indexed.id, None)
        if leaves is None:
            leaves = TreeLeaves.of(self.tree(artifact))
            held = len(leaves) + sum(map(len, self._leaves.values()))
            while self._leaves and held > LEAVES_AT_ONCE:
                held -= len(self._leaves.pop(next(iter(self._leaves))))
        self._leaves[indexed.id] = leaves
        return leaves

    def readings(self, model: Indexed | None = None) -> list[Mapping[str, Any]]:
        """Return how sources read their rows, each way once: those of all data sets and corpora, or of what a
        model and the ones that it starts from were trained on.
        """
        found = dict.fromkeys(one for _, source in self._sources(model) for one in readings_of(source))
        return [json.loads(each) for each in found]

    @cached_property
    def transformed(self) -> tuple[tuple[str, Transformed], ...]:
        """Return (digest of the data set, the source) of all whose rows were transformed."""
        return self.transformed_for(None)

    def transformed_for(self, model: Indexed | None) -> tuple[tuple[str, Transformed], ...]:
        """Return the same, as `transformed`; of a model those of its own data set, and of the ones that it
        starts from.
        """
        found = (
            (dataset.digest, Transformed(dataset.variant or "", source["path"], source[TRANSFORM]))
            for dataset, source in self._sources(model)
            if source.get(TRANSFORM)
        )
        return tuple(dict.fromkeys(found))

    def above(self, model: Indexed) -> Iterator[tuple[Indexed, list[Indexed]]]:
        """Yield (model, what leads to it) of each that a model starts from, the nearest first."""
        through = [model]
        for found in paths(self.index, model, *TO_PARENT):
            if not self.allows(found[-1]):
                return
            yield found[-1], [*through, *found[:-1]]
            through += found

    def _sources(self, model: Indexed | None) -> Iterator[tuple[Indexed, Mapping[str, Any]]]:
        """Yield (data set or corpus, each of its sources as it was read); see `readings`."""
        stages = (TASK_DATASET.name, GENERAL_CORPUS.name)
        if model is None:
            holders = [each for stage in stages for each in self.index.of_stage(stage)]
        else:
            models = [model, *(parent for parent, _ in self.above(model))]
            mixtures = [self.index.parent(each, TRAINING_MIXTURE.name) for each in models]
            holders = [above for each in mixtures if each for above in inputs(self.index, each, stages)]
        for holder in self.allowed(holders):
            with suppress(UserError):  # `verify` tells of a manifest that cannot be read
                yield from ((holder, source) for source in read_sources(self.artifact(holder)))

    @cached_property
    def counts(self) -> list[Count]:
        """Return `Index.counts`, read once."""
        return self.index.counts()

    @cached_property
    def digests(self) -> dict[int, str]:
        """Return `Index.digests`, read once."""
        return self.index.digests()

    @cached_property
    def log(self) -> dict[str, list[ReleaseEntry]]:
        """Return the entries of the release logs by the part of the store that they are of, as the index has
        them.
        """
        found: dict[str, list[ReleaseEntry]] = {}
        for each in self.index.releases():
            entry = ReleaseEntry.from_json(json.loads(each.entry), file=entry_path(each.prefix, each.number))
            found.setdefault(each.prefix, []).append(entry)
        return found

    def releases_of(self, export: Indexed) -> tuple[ReleasedAs, ...]:
        """Return the versions that an export was released as."""
        entries = self.log.get(export.place.prefix, [])
        serving = entries[-1].production if entries else None
        return tuple(
            ReleasedAs(entry.variant, entry.version, entry.at, entry.version == serving)
            for entry in entries
            if entry.action == RELEASE and exports_of([export], entry)
        )

    def model(self, name: str) -> Indexed:
        """Return the weights that `acme.support`, `acme.support@2` or (the beginning of) a digest names: of
        the version in production, else the newest; a digest may be of the weights or of an export. Raises
        UserError.
        """
        variant, _, version = name.partition("@")
        tenant, dot, rest = variant.partition(".")
        if dot and HALF.fullmatch(tenant) and HALF.fullmatch(rest):
            return self._of_variant(f"tenants/{tenant}/{rest}", variant, version)
        return self._weights(self.by_digest(name, (FINE_TUNED_MODEL.name, MODEL_EXPORT.name))[-1])

    def by_digest(self, start: str, stages: tuple[str, ...] = ()) -> list[Indexed]:
        """Return the artifacts of the one digest that is, or begins with, this: equal ones of several
        variants, made again ones. Raises UserError: no such digest, or several.
        """
        fix = "Give more digits of it; `ft-dagster history VARIANT` shows those of releases"
        if len(start) < SHORTEST or any(c not in "0123456789abcdef" for c in start):
            raise UserError("neither a variant nor a digest", value=start, fix=fix)
        found = self.allowed(self.index.like(start))
        found = [each for each in found if not stages or each.place.stage in stages]
        if not found:
            raise UserError("no artifact has this digest", value=start, fix=fix)
        digests = {each.digest for each in found}
        if len(digests) > 1:
            several = ", ".join(sorted(digest[: len(start) + 4] for digest in digests))
            raise UserError(f"several digests begin so: {several}", value=start, fix="Give more digits")
        return found

    def _weights(self, found: Indexed) -> Indexed:
        if found.place.stage == FINE_TUNED_MODEL.name:
            return found
        weights = self.index.parent(found, FINE_TUNED_MODEL.name)
        if weights is None:
            fix = "Restore it from a backup"
            raise UserError("the weights of this export are gone", value=found.digest, fix=fix)
        return weights

    def _of_variant(self, prefix: str, variant: str, version: str) -> Indexed:
        models = self.allowed(self.index.of_stage(FINE_TUNED_MODEL.name, prefix))
        entries = self.log.get(prefix, []) if models else []
        wanted = version.removeprefix("v") or (entries[-1].production if entries else None)
        for entry in entries:
            if entry.action == RELEASE and str(entry.version) == str(wanted):
                exports = exports_of(self.index.of_stage(MODEL_EXPORT.name, prefix), entry)
                if exports:
                    return self._weights(exports[-1])
        if version:
            known = [str(entry.version) for entry in entries if entry.action == RELEASE]
            fix = f"Released are {', '.join(known) or 'none'}"
            raise UserError("no such version", field="version", value=version, fix=fix)
        if not models:
            fix = "`ft-dagster status` lists those that are; or give a digest"
            raise UserError("no model of this variant", value=variant, fix=fix)
        return models[-1]

    def _parent(self, artifact: Artifact, stage: str) -> Artifact | None:
        """Return what an artifact was made from; where that is gone, one of equal bytes."""
        one = inputs_of(artifact).get(stage)
        if one is None:
            return None
        equal = one._replace(manifest=None)
        found = self.index.find(artifact, stage, one) or self.index.find(artifact, stage, equal)
        return self.artifact(found[0]) if found else None


def inclusion(merkle: MerkleTree, at: int) -> Inclusion:
    """Return the proof that a leaf is in a tree."""
    return Inclusion(merkle.root.hex(), at, len(merkle), tuple(one.hex() for one in merkle.path(at)))


def declared_sources(dataset: Artifact) -> list[dict[str, object]]:
    """Return the sources of a data set as they were declared; version 0.1 had its fields side by side."""
    now = dataset.spec.get("spec", {}).get("data", {}).get("sources")
    sources: list[dict[str, object]] = dataset.spec.get("data.sources", []) if now is None else now
    return sources


def read_sources(holder: Artifact) -> list[dict[str, object]]:
    """Return the sources of a data set or corpus, with the format that their rows were read in, and the
    columns of their tables; none of what a base wrote.
    """
    said, noted = holder.figures.get("formats"), holder.figures.get(COLUMNS)
    formats = said if isinstance(said, dict) else {}
    declared = declared_sources(holder)
    if holder.place.stage != TASK_DATASET.name:
        declared = holder.spec.get("corpus", {}).get("sources", [])
        formats = {source["path"]: "text" for source in declared}
    read = [{**one, "format": formats.get(one["path"], one.get("format"))} for one in declared]
    return [{**one, COLUMNS: readings_of_columns(one, noted)} for one in read]


def rows_stand(audit: Audit, indexed: Indexed) -> bool:
    """Say whether its records can be read: from evidence, which stays, else from payloads, its own and those
    that it was made of, which retention may have removed.
    """
    if audit.stored.has(audit.artifact(indexed), f"evidence/{ORIGINS}"):
        return True
    if indexed.place.stage != FINE_TUNED_MODEL.name and isinstance(audit.said(indexed), Removed):
        return False
    above = inputs(audit.index, indexed, (TRAINING_MIXTURE.name, TASK_DATASET.name, GENERAL_CORPUS.name))
    return all(rows_stand(audit, each) for each in above)


def index_folder(settings: Settings) -> Path:
    return settings.work_folder / "audit"


def index_error(audit: Audit, problem: str) -> UserError:
    fix = "Run `ft-dagster audit index --again`: it is made from the store"
    return UserError(problem, file=index_folder(audit.settings), fix=fix)


def open_audit(
    settings: Settings,
    *,
    tenant: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    again: bool = False,
) -> Audit:
    """Open an audit of the project's store, its index made or brought up to date; `again`: made from nothing.

    Raises UserError.
    """
    if tenant is not None and not HALF.fullmatch(tenant):
        raise UserError("no name of a tenant", field="--tenant", value=tenant, fix="Name one of tenants/")
    store = settings.open_store()
    folder = index_folder(settings)
    with reported(settings):
        with host_lock(settings.work_folder, LOCK):  # nobody removes what another has just begun
            if again:
                remove_index(folder)
            index = Index.open(folder, store.url, lambda known: _holds(store, known))
        audit = Audit(settings, store, index, tenant)
        follower = Follower(audit.index, audit.stored, settings.keys_folder, settings.work_folder, say)
        audit.followed = follower.follow()
    return audit


def _holds(store: Store, known: Sequence[tuple[Any, ...]]) -> bool:
    """Say whether a store has artifacts by these manifests, each (*place, generation, sha256 of the
    manifest).
    """
    try:
        found = [said_by(store, Place(*place), generation) for *place, generation, _ in known]
    except UserError:
        return False
    made = [each.artifact if isinstance(each, Removed) else each for each in found]
    return [each and each.manifest for each in made] == [manifest for *_, manifest in known]


@contextmanager
def reported(settings: Settings) -> Iterator[None]:
    """Raises UserError where the index cannot be used just now, and is not damaged."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if is_damage(error):
            raise
        fix = "Make room on its disk, or end what holds it, then ask again"
        raise UserError(f"the index cannot be used: {error}", file=index_folder(settings), fix=fix) from None
