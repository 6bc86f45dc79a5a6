"""Holds what all variants are compared with: policy, corpora and tasks as they are now, each read once for
all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.evaluation.tasks.tasks import names_of
from ft_dagster.fleet.refresh.listing import (
    ListedFile,
    WatchedPlace,
    difference,
    digests_of,
    is_here,
    listing,
)
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.serving import Standing
from ft_dagster.lineage.stale import StaleCause
from ft_dagster.planning.hardware.catalogue import Catalogue, load_catalogue
from ft_dagster.provenance.digest import sha256_json
from ft_dagster.roots import Roots
from ft_dagster.settings import Settings
from ft_dagster.spec import CorpusSpec, Declared, VariantKey, VariantSpec, load_corpus
from ft_dagster.spec.load import corpus_file, corpus_files
from ft_dagster.spec.policy import Breach, Checks, Policies, breaches
from ft_dagster.stage_entries import ENTRIES, GENERAL_CORPUS, version_of
from ft_dagster.stages.declaration import freeze_tasks
from ft_dagster.stages.general_corpus import corpus_causes
from ft_dagster.stages.judging.may_serve import Today, unserved_in
from ft_dagster.store import Artifact, Store, read_head
from ft_dagster.store.heads import head_time
from ft_dagster.versions.look import CorpusNow, FoundNow
from ft_dagster.workspace.corpora import prefix_of_corpus
from ft_dagster.workspace.policy import own_files, with_source


class TasksNow(NamedTuple):
    """Holds tasks as they are now. `digests`: by entry, by role; `names`: what scores call each entry; both
    None where one cannot be read, and `wrong` says why.
    """

    digests: Mapping[str, Mapping[str, str]] | None = None
    names: Mapping[str, str] | None = None
    wrong: UserError | None = None


class SharedState:
    """Reads each of them once, and says the same for as long as it lives."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._roots: dict[str, Roots] = {}
        self._corpora: dict[str, CorpusNow] = {}
        self._tasks: dict[tuple[str, ...], TasksNow] = {}

    def of(self, declared: Declared) -> FoundNow:
        """Return what a run of a declaration would find beside it."""
        wrong, breached, policy = list[StaleCause](), list[Breach](), None
        tasks = self._tasks_of(declared)
        if isinstance(self._policies, UserError):
            wrong.append(StaleCause("policy", str(self._policies.file), str(self._policies)))
        else:
            policy = self._policies.of(declared.key.tenant)
            spec = with_source(self.settings, declared, policy)
            own = own_files(self.roots(declared.key.tenant), spec)
            breached = breaches(policy, spec, Checks(tasks.names or {}, own))
        if tasks.wrong is not None:
            wrong.append(StaleCause("task", str(tasks.wrong.file), str(tasks.wrong)))
        general = declared.spec.data.general
        named = None if general is None else general.corpus
        corpus = None if named is None else self._corpus(named)
        return FoundNow(
            tasks.digests, tuple(breached), corpus, tuple(wrong), policy=policy, names=tasks.names
        )

    def unserved(
        self, key: VariantKey, spec: VariantSpec | None, past: Sequence[ReleaseEntry]
    ) -> Standing | None:
        """Return the version in production of a log that may no longer be served; None where it may be, or
        the policy cannot be read, which is said where the variant is compared with it. `spec`: its
        declaration.
        """
        if isinstance(self._policies, UserError):
            return None
        return unserved_in(Today(self.settings, key, self.store, self._policies, spec), past)

    @cached_property
    def store(self) -> Store:
        """Return the store as the platform opens it; each manifest is checked once. Raises UserError."""
        store = self.settings.open_store()
        store.checked = {}
        return store

    def roots(self, tenant: str) -> Roots:
        """Return what a tenant's declarations may reach."""
        if tenant not in self._roots:
            self._roots[tenant] = self.settings.roots(tenant)
        return self._roots[tenant]

    @cached_property
    def catalogue(self) -> Catalogue:
        """Return what devices cost; no card where gpus.yaml cannot be read: hours are counted all the
        same.
        """
        try:
            return load_catalogue(self.settings.project)
        except UserError:
            return Catalogue(())

    @cached_property
    def prices(self) -> str:
        """Return a digest that changes where a price does."""
        return sha256_json([[card.name, card.driver, card.usd_per_hour] for card in self.catalogue.cards])

    @property
    def mark(self) -> str:
        """Return a digest that changes where any of it does that all variants share."""
        said = self._policies
        policies = str(said) if isinstance(said, UserError) else [said.content, said.tenants]
        corpora = [[name, *self._corpus(name)] for name in corpus_files(self.settings.project)]
        return sha256_json([policies, {stage: version_of(stage) for stage in ENTRIES}, corpora])

    @cached_property
    def _policies(self) -> Policies | UserError:
        try:
            return self.settings.policies()
        except UserError as error:
            return error

    def _tasks_of(self, declared: Declared) -> TasksNow:
        asked = declared.spec.evaluation
        known = (declared.key.tenant, *asked.task, "", *asked.general)
        if known not in self._tasks:
            project, roots = self.settings.project, self.roots(declared.key.tenant)
            entries = (*asked.task, *asked.general)
            try:
                digests = freeze_tasks(declared, project, roots)
                names = names_of(entries, project, asked_by=declared.file, roots=roots)
                self._tasks[known] = TasksNow(digests, names)
            except UserError as error:
                self._tasks[known] = TasksNow(wrong=error)
        return self._tasks[known]

    def _corpus(self, name: str) -> CorpusNow:
        if name not in self._corpora:
            self._corpora[name] = self._read_corpus(name)
        return self._corpora[name]

    def _read_corpus(self, name: str) -> CorpusNow:
        try:
            newest = read_head(self.store, prefix_of_corpus(name), GENERAL_CORPUS.name)
            spec, file = load_corpus(self.settings.project, name), corpus_file(self.settings.project, name)
        except (UserError, OSError, ValueError, KeyError, TypeError) as error:
            return CorpusNow(None, (StaleCause("corpus", name, str(error)),))
        if newest is None:
            return CorpusNow(None)
        return CorpusNow(newest.digest, corpus_causes(file, newest, spec, self._other_files(spec, newest)))

    def _other_files(self, spec: CorpusSpec, newest: Artifact) -> Iterator[str]:
        """Yield the first file of each source on this host that changed since the newest artifact read
        it.
        """
        at = head_time(self.store, newest.place.prefix, GENERAL_CORPUS.name)
        for source, then in zip(spec.sources, newest.spec["sources"], strict=True):
            place = WatchedPlace("data", source.path, source.revision, source.split)
            if at is None or not is_here(place, self.settings.project):
                continue
            try:
                files = listing(place, self.settings.project, None)
                other = difference(then, files, at, self._digests)
            except UserError as error:
                yield str(error)
                continue
            yield from () if other is None else (other.first,)

    def _digests(self, files: Sequence[ListedFile]) -> list[str]:
        return digests_of(files, self.settings.cache_folder)
