"""Says what the erasure of records takes: every place that holds one, which variants train again, at what
cost, and by when. Nothing is changed.

It joins the answers that an audit gives of each record (`records`, `search`); what a model learned from, and
which ones start from it, is asked there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

from ft_dagster.audit.answers import ModelThatHas, RecordAnswer, RecordIn, SearchAnswer
from ft_dagster.audit.audit import Audit
from ft_dagster.audit.erasure.course_before import FROM_START, course_before
from ft_dagster.audit.index.artifact_records import STATES, TRAIN
from ft_dagster.audit.index.index import Indexed
from ft_dagster.audit.records import INHERITED, TRAINED, VALIDATED, VALIDATION, once
from ft_dagster.errors import UserError
from ft_dagster.lineage.graph import inputs_first
from ft_dagster.stage_entries import (
    EVALUATION,
    FINE_TUNED_MODEL,
    MODEL_EXPORT,
    TASK_DATASET,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
)
from ft_dagster.store import Artifact
from ft_dagster.store.artifacts import Removed

LEARNED = (TRAINED, INHERITED)  # its weights are of the record
CHOSEN = (VALIDATED, VALIDATION)  # its checkpoint may have been chosen by it
NOT_LOOKED_AT = (
    "what `publish`, `register`, `--to` and serving engines copied is not recorded",
    "backups, versions of objects, the event log and compute logs of Dagster, TensorBoard and MLflow, work "
    "folders and caches are not looked through",
)


@dataclass(frozen=True)
class Took:
    """Says what a version took, of one device: hours to train, hours to judge and export; dollars of each
    hour, None where no price is known.
    """

    training: float
    judging: float
    usd_per_hour: float | None


@dataclass(frozen=True)
class SoughtFor:
    """Names a record of a request. `said`: how it was given, without its text; `identities`: what it is known
    by where it was found, else what it would be known by; `exact`: those by which no other record is known.
    `places`: how many artifacts have it; None: not found, and not all could be read.
    """

    said: str
    identities: tuple[str, ...]
    exact: tuple[str, ...]
    places: int | None


@dataclass(frozen=True)
class Holder:
    """Is an artifact that holds some of the records. `variant`: None of what is shared. `records`: how many;
    `states`: in which of its splits, or as what. `removed`: when retention removed its files, "" where they
    stand.
    """

    variant: str | None
    stage: str
    digest: str
    key: str
    records: int
    states: tuple[str, ...]
    removed: str = ""


@dataclass(frozen=True)
class Source:
    """Is a file of a tenant that a record was read from. `lines`: of the records, where they are known."""

    variant: str | None
    path: str
    lines: tuple[int, ...]


@dataclass(frozen=True)
class HoldingModel:
    """Is a model that learned from a record, was chosen by one, or was asked it. `how`: each way, in words.
    `exports`: digests; `versions`: that it was released as. `current`: it is in production, or the newest of
    its variant.
    """

    variant: str
    weights: str
    how: tuple[str, ...]
    exports: tuple[str, ...]
    versions: tuple[int, ...]
    production: bool
    current: bool

    @property
    def learned(self) -> bool:
        return any(how in LEARNED for how in self.how)

    @property
    def trains_again(self) -> bool:
        return self.learned or any(how in CHOSEN for how in self.how)


@dataclass(frozen=True)
class Retrain:
    """Is a variant that trains again: its model in production, or else its newest, has a record. `how`: as of
    `training.retrain.course`; `share`: of the steps, 0 to 1; `why`: in words. `after`: variants that train
    before it. `hours`: of one device, with judging and export; None where the training before does not tell.
    """

    variant: str
    weights: str
    production: bool
    how: str
    share: float
    why: str
    after: tuple[str, ...]
    hours: float | None
    usd: float | None


@dataclass(frozen=True)
class ErasureDryRun:
    """Says what an erasure takes. `due`: the day by which it has to be done, `due_by`: by what that is.
    `retrains`: in their order, parents first. `cannot`: what could not be looked through, and may hold one.
    """

    reason: str
    due: str
    due_by: str
    records: tuple[SoughtFor, ...]
    holders: tuple[Holder, ...]
    sources: tuple[Source, ...]
    models: tuple[HoldingModel, ...]
    retrains: tuple[Retrain, ...]
    cannot: tuple[str, ...]
    searched_bytes: int = 0

    @property
    def hours(self) -> float:
        return sum(each.hours or 0.0 for each in self.retrains)

    @property
    def usd(self) -> float | None:
        known = [each.usd for each in self.retrains if each.usd is not None]
        return sum(known) if len(known) == len(self.retrains) else None

    @property
    def owners(self) -> list[str]:
        """Return whose parts of the store hold a record: tenants, and "" of what all share."""
        return sorted({_owner(each) for each in self.holders})

    def held_by(self, owner: str) -> list[Holder]:
        return [each for each in self.holders if _owner(each) == owner]

    def learned_by(self, owner: str) -> tuple[str, ...]:
        """Return the digests of an owner's weights that learned from a record, and of its mixtures that have
        one to train on.
        """
        weights = {each.weights for each in self.models if each.learned and _tenant(each.variant) == owner}
        mixtures = {
            each.digest
            for each in self.held_by(owner)
            if each.stage == TRAINING_MIXTURE.name and STATES[TRAIN] in each.states
        }
        return tuple(sorted(weights | mixtures))

    @property
    def shared(self) -> tuple[Holder, ...]:
        """Return the places that all tenants share."""
        return tuple(each for each in self.holders if each.variant is None)


def _owner(holder: Holder) -> str:
    return _tenant(holder.variant or "")


def _tenant(variant: str) -> str:
    return variant.partition(".")[0]


class Asked(NamedTuple):
    """Is a record that was asked for: how it was given, the answer, and the identities (hex) by which no
    other record is known.
    """

    said: str
    answer: RecordAnswer
    exact: tuple[str, ...]


def dry_run(
    audit: Audit,
    asked: Sequence[Asked],
    took: Callable[[Sequence[Artifact]], Took | None],
    *,
    reason: str,
    due: date,
    due_by: str,
) -> ErasureDryRun:
    """Join the answers of each record. `took`: what the artifacts of one version took. Raises UserError where
    more rows contain a text than are looked up.
    """
    answers = [each.answer for each in asked]
    searches = [each.search for each in answers if each.search is not None]
    for search in searches:
        if search.looked_up < search.rows or len(search.records) < search.rows:
            fix = "Give a longer part of the text, or the rows themselves in a file"
            raise UserError(f"{search.rows:,} rows contain it: more than one request holds", fix=fix)
    places = [*(one for each in answers for one in each.found), *_places_in(searches)]
    told = once((*(one for each in answers for one in each.models), *_models_in(searches)))
    models = _models(audit, told)
    return ErasureDryRun(
        reason=reason,
        due=due.isoformat(),
        due_by=due_by,
        records=tuple(_sought(asked)),
        holders=tuple(_holders(audit, places)),
        sources=tuple(_sources(places)),
        models=tuple(models),
        retrains=tuple(_retrains(audit, models, places, took)),
        cannot=tuple(dict.fromkeys(_cannot(answers, searches, models))),
        searched_bytes=sum(search.size for search in searches),
    )


def _places_in(searches: Iterable[SearchAnswer]) -> Iterator[RecordIn]:
    for search in searches:
        for one in (*search.records, *search.cut):
            yield from one.found
        yield from search.asked


def _models_in(searches: Iterable[SearchAnswer]) -> Iterator[ModelThatHas]:
    for search in searches:
        yield from search.models


def _sought(asked: Iterable[Asked]) -> Iterator[SoughtFor]:
    for said, each, exact in asked:
        known = tuple(dict.fromkeys(one.identity for one in each.found)) or each.identities
        found = len({(one.stage, one.key) for one in each.found})
        yield SoughtFor(said, known, exact, None if not found and each.equal is None else found)
        for one in () if each.search is None else (*each.search.records, *each.search.cut):
            places = len({(place.stage, place.key) for place in one.found})
            yield SoughtFor(f"contains {said}", (one.identity,), (one.identity,), places)


def _holders(audit: Audit, places: Iterable[RecordIn]) -> Iterator[Holder]:
    """Yield each artifact once, what is shared first."""
    records = defaultdict[tuple[str | None, str, str, str], set[str]](set)
    states = defaultdict[tuple[str | None, str, str, str], dict[str, None]](dict)
    for one in places:
        place = (one.variant, one.stage, one.digest, one.key)
        records[place].add(one.identity or str(sorted(map(str, one.facts.items()))))
        states[place][one.state] = None
    for place in sorted(records, key=lambda place: (place[0] or "", *place[1:])):
        yield Holder(*place, len(records[place]), tuple(states[place]), _removed(audit, *place[1:]))


def _removed(audit: Audit, stage: str, digest: str, key: str) -> str:
    for each in audit.index.with_digest(digest):
        if (each.place.stage, each.place.key) == (stage, key):
            said = audit.said(each)
            return said.at if isinstance(said, Removed) else ""
    return ""


def _sources(places: Iterable[RecordIn]) -> Iterator[Source]:
    """Yield the files that the records were read from, which are the tenants' own."""
    lines = defaultdict[tuple[str | None, str], set[int]](set)
    for one in places:
        file, line = one.facts.get("file"), one.facts.get("line")
        if one.stage == TASK_DATASET.name or (one.variant is None and file):
            path = str(file or one.facts.get("path") or "")
            lines[one.variant, path].update([line] if isinstance(line, int) else [])
    for (variant, path), numbers in sorted(lines.items(), key=lambda each: (each[0][0] or "", each[0][1])):
        if path:
            yield Source(variant, path, tuple(sorted(numbers)))


def _models(audit: Audit, told: Iterable[ModelThatHas]) -> list[HoldingModel]:
    ways = defaultdict[tuple[str, str], list[ModelThatHas]](list)
    for one in told:
        ways[one.variant, one.weights].append(one)
    return [_model(audit, alike) for _, alike in sorted(ways.items())]


def _model(audit: Audit, alike: Sequence[ModelThatHas]) -> HoldingModel:
    first = alike[0]
    releases = dict.fromkeys(release for one in alike for release in one.releases)
    production = any(release.production for release in releases)
    return HoldingModel(
        first.variant,
        first.weights,
        tuple(dict.fromkeys(one.how for one in alike)),
        tuple(dict.fromkeys(export for one in alike for export in one.exports)),
        tuple(sorted({release.version for release in releases})),
        production,
        production or _newest(audit, first.variant) == first.weights,
    )


def _prefix(variant: str) -> str:
    tenant, _, name = variant.partition(".")
    return f"tenants/{tenant}/{name}"


def _newest(audit: Audit, variant: str) -> str | None:
    found = audit.index.of_stage(FINE_TUNED_MODEL.name, _prefix(variant))
    return found[-1].digest if found else None


def _retrains(
    audit: Audit,
    models: Sequence[HoldingModel],
    places: Sequence[RecordIn],
    took: Callable[[Sequence[Artifact]], Took | None],
) -> Iterator[Retrain]:
    """Yield the variants whose model in production, or else newest, has a record; parents before children."""
    chosen: dict[str, HoldingModel] = {}
    for model in sorted(models, key=lambda model: model.production):
        if model.current and model.trains_again:
            chosen[model.variant] = model
    parents = {variant: _parents(audit, model, chosen) for variant, model in chosen.items()}
    rows = _rows_by_mixture(places)
    for variant in inputs_first(chosen, lambda variant: parents.get(variant, [])):
        yield _retrain(audit, chosen[variant], parents[variant], rows, took)


def _parents(audit: Audit, model: HoldingModel, among: Container[str]) -> list[str]:
    """Return the variants that a model starts from, by its own manifests: others may have equal weights."""
    found = (parent.variant for one in trainings_of(audit, model)[-1:] for parent, _ in audit.above(one))
    return list(dict.fromkeys(name for name in found if name is not None and name in among))


def trainings_of(audit: Audit, model: HoldingModel) -> list[Indexed]:
    """Return the trainings of a variant that ended in the weights of a model."""
    made = audit.index.of_stage(FINE_TUNED_MODEL.name, _prefix(model.variant))
    return [each for each in made if each.digest == model.weights]


def _rows_by_mixture(places: Iterable[RecordIn]) -> Mapping[str, set[tuple[str, int]]]:
    """Return digest of a mixture -> (source, row) of the training examples that were made of a record."""
    found = defaultdict[str, set[tuple[str, int]]](set)
    for one in places:
        if one.state == "train" and one.facts.get("row") is not None and one.facts.get("source"):
            found[one.digest].add((str(one.facts["source"]), int(one.facts["row"])))
    return found


def _retrain(
    audit: Audit,
    model: HoldingModel,
    after: Sequence[str],
    rows: Mapping[str, set[tuple[str, int]]],
    took: Callable[[Sequence[Artifact]], Took | None],
) -> Retrain:
    found = trainings_of(audit, model)
    if INHERITED in model.how:
        how, share, why = FROM_START, 1.0, "the parent that it starts from learned it, and is made anew"
    elif any(each in CHOSEN for each in model.how):
        how, share, why = FROM_START, 1.0, "a held-out loss counted it, and may have chosen its checkpoint"
    else:
        course = course_before(audit, found[-1], rows)
        how, share, why = course.how, course.share, course.why
    spent = took(_version_of(audit, found))
    hours = None if spent is None else share * spent.training + spent.judging
    usd = None if spent is None or spent.usd_per_hour is None or hours is None else hours * spent.usd_per_hour
    named = (model.variant, model.weights, model.production)
    return Retrain(*named, how, share, why, tuple(after), hours, usd)


def _version_of(audit: Audit, weights: Sequence[Indexed]) -> list[Artifact]:
    """Return the newest training of equal weights, its plan, and what judged and exported it."""
    if not weights:
        return []
    model, stages = weights[-1], (EVALUATION.name, MODEL_EXPORT.name)
    plan = audit.index.parent(model, TRAINING_PLAN.name)
    made = (each for stage in stages for each in audit.index.made_of(model, stage)[-1:])
    return [audit.artifact(each) for each in (model, *([] if plan is None else [plan]), *made)]


def _cannot(
    answers: Iterable[RecordAnswer], searches: Sequence[SearchAnswer], models: Sequence[HoldingModel]
) -> Iterator[str]:
    for each in answers:
        yield from each.checked.unread
        yield from map(str, each.transformed)
        yield from each.unsure
    for search in searches:
        yield from search.cannot
    served = Counter(model.variant for model in models if model.versions and model.trains_again)
    if served:
        yield f"{NOT_LOOKED_AT[0]}: ask who has versions of {', '.join(sorted(served))}"
    yield NOT_LOOKED_AT[1]
    if not searches:
        yield "rows that contain a record, or are nearly one, were not looked for (`--contains`)"
