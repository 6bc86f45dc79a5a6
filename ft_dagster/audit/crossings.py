"""Says whether a tenant's record is in a mixture of another, from record evidence.

What a tenant's records are known by under the key of what all tenants share is looked up among the rows of
another one's mixtures: no text is read, and no tenant's own key. Files that have identities are compared
under the shared key of the file that has none. Text of a corpus, and rows of a file that both tenants read
and that is neither's own, are what the platform gives to both: they are counted apart. What was found in a
mixture is remembered on this host, by the manifests of mixture and data sets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ft_dagster.audit.answers import ReleasedAs
from ft_dagster.audit.audit import LOOK_THERE, Audit
from ft_dagster.audit.index.index import Indexed
from ft_dagster.data.files.parquet import count_of, quoted, rows_of
from ft_dagster.data.mixture.mixture_figures import GENERAL
from ft_dagster.data.rows.content import EXACT
from ft_dagster.data.rows.dataset_io import ORIGINS
from ft_dagster.errors import UserError
from ft_dagster.provenance.findings import recalled, remembered
from ft_dagster.provenance.merkle import SIZE
from ft_dagster.records.record_keys import SHARED_OWNER, RecordKey
from ft_dagster.records.record_tree import TREE, TreeHead, identity_form, row_files
from ft_dagster.records.sealed_rows import shared_key_of, shared_names
from ft_dagster.roots import Roots, is_address
from ft_dagster.stage_entries import FINE_TUNED_MODEL, MODEL_EXPORT, TASK_DATASET, TRAINING_MIXTURE

SEARCH = "crossings 1"  # raise it when the same trees come to another answer
BLOCK = 1_000_000  # identities that are looked up together, at some 100 bytes each
PLACES = 5  # of records that crossed, which are named
NEAR = "a near copy is another record, and is not found by this: `ft-dagster audit record TEXT --near 0.5`"
NO_PARENT = "a variant starts from releases of its own tenant alone, so that nothing crosses by a parent"


@dataclass(frozen=True)
class Crossing:
    """Says that records of a tenant, `owner`, are in a mixture of another's `variant`. `places`: from where
    that read the first of them; `releases`: of models that were trained on the mixture. `by_declaration`: so
    many are of files that both declare, of which one is a tenant's own.
    """

    owner: str
    tenant: str
    variant: str
    mixture: str
    records: int
    places: tuple[str, ...]
    models: tuple[str, ...]
    releases: tuple[ReleasedAs, ...]
    by_declaration: int = 0


@dataclass(frozen=True)
class Given:
    """Counts what two tenants have in common that the platform gives to both: rows of files that are
    neither's own, and texts of corpora.
    """

    owner: str
    tenant: str
    rows: int
    texts: int


@dataclass(frozen=True)
class CrossingsAnswer:
    """Says what crosses. `pairs`: of tenants, each in both directions; `mixtures`: that were looked through
    for at least one other tenant's records; `unshown`: why something is not shown.
    """

    tenants: tuple[str, ...]
    pairs: int
    mixtures: int
    crossings: tuple[Crossing, ...]
    given: tuple[Given, ...]
    unshown: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Say whether it is shown that nothing crosses."""
        return not self.crossings and not self.unshown


class _Mixture(NamedTuple):
    """Is a mixture whose rows can be searched. `shared`: the id of the shared key that knows them."""

    indexed: Indexed
    shared: str
    form: int


class _Origin(NamedTuple):
    """Counts records that were found in a mixture, by where that read them. `line`: of the first."""

    general: bool
    path: str
    file: str
    line: int | None
    records: int


def crossings(
    audit: Audit, tenant: str | None = None, say: Callable[[str], None] = lambda line: None
) -> CrossingsAnswer:
    """Look for each tenant's records in the mixtures of each other one. `tenant`: only pairs that it is of.

    Raises UserError for a tenant that has nothing in the store, and where nothing is stored of any.
    """
    search = _Search(audit, say)
    names = search.tenants
    if not names:
        problem = "no data set and no mixture is stored there, so nothing was compared"
        raise UserError(problem, file=audit.store.url, fix=LOOK_THERE)
    if tenant is not None and tenant not in names:
        fix = f"Known: {', '.join(names) or 'none'}"
        raise UserError("nothing of this tenant is in the store", field="tenant", value=tenant, fix=fix)
    pairs = [(a, b) for a in names for b in names if a != b and tenant in (None, a, b)]
    found, given = list[Crossing](), list[Given]()
    for owner, other in pairs:
        crossed, common = search.pair(owner, other)
        found += crossed
        given += [common] if common.rows or common.texts else []
    searched = {mixture for _, other in pairs for mixture in search.mixtures(other)}
    return CrossingsAnswer(
        tuple(names), len(pairs), len(searched), tuple(found), tuple(given), tuple(search.unshown)
    )


class _Search:
    """Looks for the records of tenants in mixtures of others, and gathers what is not shown."""

    def __init__(self, audit: Audit, say: Callable[[str], None]) -> None:
        self._audit, self._say = audit, say
        self._of = {
            stage: _by_tenant(audit.index.of_stage(stage))
            for stage in (TASK_DATASET.name, TRAINING_MIXTURE.name)
        }
        self.tenants = sorted({name for found in self._of.values() for name in found})
        self._mixtures: dict[str, list[_Mixture]] = {}
        self._datasets: dict[str, list[Indexed]] = {}
        self._unshown = dict.fromkeys(self._unread())

    @property
    def unshown(self) -> list[str]:
        return list(self._unshown)

    def _unread(self) -> Iterator[str]:
        """Yield which data sets and mixtures are not known whole, so that more may cross."""
        for each in self._audit.followed.problems:
            if each.stage in self._of:
                yield each.problem
        for mixture in (one for found in self._of[TRAINING_MIXTURE.name].values() for one in found):
            if self._audit.index.parent(mixture, TASK_DATASET.name) is None:
                named = f"mixture {mixture.digest[:12]} of {mixture.variant}"
                yield f"the data set of {named} is gone: none of its records was looked for elsewhere"

    def mixtures(self, tenant: str) -> list[_Mixture]:
        """Return a tenant's mixtures whose trees can be searched."""
        if tenant not in self._mixtures:
            known = self._of[TRAINING_MIXTURE.name].get(tenant, ())
            self._mixtures[tenant] = [each for one in known if (each := self._searchable(one)) is not None]
        return self._mixtures[tenant]

    def _searchable(self, indexed: Indexed) -> _Mixture | None:
        named = f"mixture {indexed.digest[:12]} of {indexed.variant}"
        try:
            artifact = self._audit.artifact(indexed)
            head = TreeHead.of(artifact.figures, file=self._audit.store.uri(artifact.manifest_path))
            if head is None or not self._audit.stored.has(artifact, f"evidence/{TREE}"):
                self._unshown[f"{named} is older than record trees"] = None
                return None
            shared = shared_key_of(self._audit.stored.evidence(artifact) / ORIGINS)
        except UserError as error:
            self._unshown[f"{named}: {error}"] = None
            return None
        return _Mixture(indexed, shared or self._audit.keys(SHARED_OWNER).current.id, head.identity)

    def datasets(self, tenant: str) -> list[Indexed]:
        """Return a tenant's data sets that name their records."""
        if tenant not in self._datasets:
            self._datasets[tenant] = [
                each for each in self._of[TASK_DATASET.name].get(tenant, ()) if self._names_records(each)
            ]
        return self._datasets[tenant]

    def _names_records(self, indexed: Indexed) -> bool:
        named = f"data set {indexed.digest[:12]} of {indexed.variant}"
        try:
            artifact = self._audit.artifact(indexed)
            if self._audit.stored.has(artifact, f"evidence/{ORIGINS}"):
                self._audit.stored.evidence(artifact)
                return True
            self._unshown[f"{named} is older than the records of its rows: not looked for"] = None
        except UserError as error:
            self._unshown[f"{named}: {error}"] = None
        return False

    def pair(self, owner: str, other: str) -> tuple[list[Crossing], Given]:
        """Look for the records of an owner in all mixtures of another tenant."""
        datasets, mixtures = self.datasets(owner), self.mixtures(other)
        self._note_forms(owner, other, datasets, mixtures)
        origins = dict[_Mixture, list[_Origin]]()
        for shared in dict.fromkeys(each.shared for each in mixtures):
            known = [each for each in datasets if self._is_known(each, shared, other)]
            if known:
                origins |= self._found(known, [each for each in mixtures if each.shared == shared])
        theirs = {origin for each in datasets for origin in self._files_of(each)}
        roots = [self._audit.settings.roots(each) for each in (owner, other)]
        crossed, rows, texts = list[Crossing](), 0, 0
        for mixture, found in origins.items():
            apart = [
                each
                for each in found
                if not each.general
                and not ((each.path, each.file) in theirs and is_given(each.path, each.file, *roots))
            ]
            texts += sum(each.records for each in found if each.general)
            rows += sum(each.records for each in found if not each.general and each not in apart)
            if apart:
                both = sum(each.records for each in apart if (each.path, each.file) in theirs)
                crossed.append(replace(self._crossing(owner, mixture.indexed, apart), by_declaration=both))
        return crossed, Given(owner, other, rows, texts)

    def _note_forms(
        self, owner: str, other: str, datasets: Sequence[Indexed], mixtures: Sequence[_Mixture]
    ) -> None:
        """Note where records are known by two forms of identity, which differ for some of them."""
        forms = {identity_form(self._audit.artifact(each).figures) for each in datasets}
        if forms and mixtures and forms | {each.form for each in mixtures} != {EXACT}:
            self._unshown[
                f"{owner} in {other}: some of their trees know records by identity 1 alone; of a record that "
                "is known by identity 2 nothing is shown there"
            ] = None

    def _is_known(self, dataset: Indexed, shared: str, other: str) -> bool:
        """Say whether a data set's records are known under a shared key; note it where they are not."""
        folder, here = self._evidence(dataset), self._audit.keys(SHARED_OWNER)
        files = (folder / name for name in row_files(folder))
        names = {shared_key_of(file) for file in files} - {""}
        named = f"data set {dataset.digest[:12]} of {dataset.variant} in {other}"
        if None in names and here.of_id(shared) is None:
            self._unshown[f"{named}: the shared key {shared} is not here"] = None
            return False
        if names - {None, shared}:
            self._unshown[
                f"{named}: rows of one are known under another shared key than those of the other"
            ] = None
            return False
        return True

    def _found(
        self, datasets: Sequence[Indexed], mixtures: Sequence[_Mixture]
    ) -> dict[_Mixture, list[_Origin]]:
        """Return where each mixture read the records that these data sets have too."""
        made_of = sorted(each.manifest for each in datasets)
        found, due = dict[_Mixture, list[_Origin]](), list[_Mixture]()
        cache = self._audit.settings.cache_folder
        for mixture in mixtures:
            known = recalled(cache, _question(made_of, mixture))
            if known is None:
                due.append(mixture)
            else:
                found[mixture] = [_Origin(*each) for each in known]
        rows = self._rows_in(datasets, due) if due else {}
        for mixture, held in rows.items():
            origins = self._origins(mixture, held)
            found[mixture] = origins
            remembered(cache, _question(made_of, mixture), partial(_plain, origins))
        return found

    def _rows_in(
        self, datasets: Sequence[Indexed], mixtures: Sequence[_Mixture]
    ) -> dict[_Mixture, NDArray[np.bool_]]:
        """Return for each mixture which of its rows are records of the data sets, of which all are known by
        one shared key.
        """
        key = self._audit.keys(SHARED_OWNER).of_id(mixtures[0].shared)
        evidence = {each: self._evidence(each.indexed) for each in mixtures}
        held = {each: np.zeros(count_of(evidence[each] / ORIGINS), np.bool_) for each in mixtures}
        for block in self._names(datasets, key):
            sought = _Lookups(np.frombuffer(b"".join(block), np.uint8).reshape(-1, SIZE))
            for each in mixtures:
                self._say(f"{len(block):,} records in mixture {each.indexed.digest[:12]}")
                for rows in _rows_with(evidence[each] / ORIGINS, sought, key):
                    held[each][rows] = True
        return held

    def _names(self, datasets: Sequence[Indexed], key: RecordKey | None) -> Iterator[list[bytes]]:
        block: list[bytes] = []
        for dataset in datasets:
            folder = self._evidence(dataset)
            for name in row_files(folder):
                for batch in shared_names(folder / name, key):
                    block += batch
                    if len(block) >= BLOCK:
                        yield block
                        block = []
        if block:
            yield block

    def _origins(self, mixture: _Mixture, held: NDArray[np.bool_]) -> list[_Origin]:
        """Count the rows of a mixture that are held, by where they were read."""
        if not held.any():
            return []
        counts, lines = Counter[tuple[bool, str, str]](), dict[tuple[bool, str, str], int | None]()
        number = 0
        for batch in rows_of(self._evidence(mixture.indexed) / ORIGINS, "source", "path", "file", "line"):
            for source, path, file, line in batch:
                if held[number]:
                    place = (source.startswith(GENERAL), str(path or ""), str(file or ""))
                    counts[place] += 1
                    lines.setdefault(place, line)
                number += 1
        return [_Origin(*place, lines[place], count) for place, count in sorted(counts.items())]

    def _files_of(self, dataset: Indexed) -> set[tuple[str, str]]:
        """Return (declared path, file) of all rows of a data set."""
        folder, found = self._evidence(dataset), set[tuple[str, str]]()
        for name in row_files(folder):
            rows = rows_of(folder / name, f"DISTINCT path, {quoted('file')}")
            found |= {(str(path or ""), str(of or "")) for batch in rows for path, of in batch}
        return found

    def _crossing(self, owner: str, mixture: Indexed, origins: Sequence[_Origin]) -> Crossing:
        index = self._audit.index
        models = index.made_of(mixture, FINE_TUNED_MODEL.name)
        exports = [each for model in models for each in index.made_of(model, MODEL_EXPORT.name)]
        return Crossing(
            owner,
            mixture.tenant,
            mixture.variant or "",
            mixture.digest,
            sum(each.records for each in origins),
            tuple(_place(each) for each in origins[:PLACES]),
            tuple(sorted({each.digest for each in models})),
            tuple(dict.fromkeys(one for each in exports for one in self._audit.releases_of(each))),
        )

    def _evidence(self, indexed: Indexed) -> Path:
        return self._audit.stored.evidence(self._audit.artifact(indexed))


def _by_tenant(found: Sequence[Indexed]) -> Mapping[str, list[Indexed]]:
    tenants: dict[str, list[Indexed]] = {}
    for each in found:
        if each.tenant != SHARED_OWNER:
            tenants.setdefault(each.tenant, []).append(each)
    return tenants


def _question(datasets: Sequence[str], mixture: _Mixture) -> dict[str, Any]:
    return {"search": SEARCH, "datasets": [*datasets], "mixture": mixture.indexed.manifest}


def _plain(origins: Sequence[_Origin]) -> list[list[Any]]:
    return [list(each) for each in origins]


class _Lookups:
    """Holds lookups, to be found by their first eight bytes, then whole."""

    def __init__(self, lookups: NDArray[np.uint8]) -> None:
        firsts = _firsts(lookups)
        order = np.argsort(firsts, kind="stable")
        self._firsts, self._known = firsts[order], {row.tobytes() for row in lookups}

    def places(self, lookups: NDArray[np.uint8]) -> list[int]:
        """Return the places of those that are held."""
        firsts = _firsts(lookups)
        at = np.searchsorted(self._firsts, firsts)
        at[at == len(self._firsts)] = 0
        likely = np.flatnonzero(self._firsts[at] == firsts).tolist()
        return [place for place in likely if lookups[place].tobytes() in self._known]


def _firsts(lookups: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(lookups[:, :8]).view(np.uint64).reshape(-1)


def _rows_with(file: Path, sought: _Lookups, key: RecordKey | None) -> Iterator[NDArray[np.int64]]:
    """Yield the numbers of the rows that have one of these lookups; streamed."""
    first = 0
    for batch in shared_names(file, key):
        places = sought.places(np.frombuffer(b"".join(batch), np.uint8).reshape(-1, SIZE))
        yield first + np.array(places, np.int64)
        first += len(batch)


def is_given(path: str, file: str, *tenants: Roots) -> bool:
    """Say whether a file, read by a source's `path`, is the own one of none of the tenants with these
    roots.
    """
    return not any(_is_own(path, file, roots) for roots in tenants)


def _is_own(path: str, file: str, roots: Roots) -> bool:
    if any(map(roots.is_own_address, filter(is_address, (path, file)))):
        return True
    return not is_address(file) and roots.is_own(roots.project / file)


def _place(origin: _Origin) -> str:
    where = origin.file or origin.path
    return where if origin.line is None else f"{where}:{origin.line}"


def as_json(found: CrossingsAnswer) -> dict[str, Any]:
    return {**asdict(found), "holds": found.holds, "says_nothing_of": [NEAR], "parents": NO_PARENT}
