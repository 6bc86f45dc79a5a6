"""Traces from a record to all that it is in: data sets, mixtures, models, their children, exports and
releases.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Literal

from ft_dagster.audit.answers import (
    Checked,
    ModelThatHas,
    RecordAnswer,
    RecordIn,
    Transformed,
)
from ft_dagster.audit.audit import Audit, inclusion, rows_stand
from ft_dagster.audit.figures import read
from ft_dagster.audit.index.artifact_records import (
    ASKED,
    HAVE_RECORDS,
    STATES,
    HeldRecord,
    members_of,
    times_of,
)
from ft_dagster.audit.index.index import Hit, Indexed, tenant_of
from ft_dagster.audit.index.judged import BY_CONTENT, judged_questions, name_of
from ft_dagster.audit.parts import parts_of
from ft_dagster.audit.sought_lines import COLUMNS
from ft_dagster.audit.sought_record import SoughtRecord
from ft_dagster.data.files.parquet import row_of
from ft_dagster.data.mixture.mixture_io import HOLDOUT
from ft_dagster.data.rows.content import EXACT
from ft_dagster.data.rows.dataset_io import DROPPED, ORIGINS, as_row
from ft_dagster.data.rows.rows import Row
from ft_dagster.errors import UserError
from ft_dagster.gate.samples import OWN, SAMPLES
from ft_dagster.lineage.graph import made_through, walk
from ft_dagster.records.record_keys import SHARED_OWNER, RecordKey
from ft_dagster.records.record_tree import TREE, TreeHead, identity_form, record_row
from ft_dagster.report.figures import counted
from ft_dagster.stage_entries import (
    BASE_MODEL,
    BASE_TEXT,
    EVALUATION,
    FINE_TUNED_MODEL,
    GENERAL_CORPUS,
    MODEL_EXPORT,
    TASK_DATASET,
    TRAINING_MIXTURE,
)
from ft_dagster.store import Artifact
from ft_dagster.store.artifacts import Removed

TRAINED, VALIDATED, JUDGED, INHERITED = "trained on", "validated on", "judged with", "parent trained on"
VALIDATION = "held out for validation"  # some examples of the split were measured, perhaps not this
HELD_OUT, PERHAPS = "held out, and not judged with", "held out, perhaps judged with"
BY_INDEX = "removed by retention, told by the index alone"
REMOVED = "removed by retention before the index was made"
LOOK = "Run `ft-dagster audit verify` to see what was altered"
HAVE_TEXT = (TASK_DATASET.name, GENERAL_CORPUS.name, BASE_TEXT.name)
LEAD_TO_RECORDS = (
    *HAVE_RECORDS,
    FINE_TUNED_MODEL.name,
    *ASKED,
    MODEL_EXPORT.name,
)  # and bases that were made of a release
TO_CHILD = (
    MODEL_EXPORT.name,
    BASE_MODEL.name,
    FINE_TUNED_MODEL.name,
)  # from weights, by what is made of them
ANSWERED = "wrote it in an answer"
UNREACHED = "in its mixture, and not reached before the exported checkpoint"
ALIKE = "10⁶ from 106, nor a call of a tool from none"  # what only identity 2 tells apart
_MEASURED = re.compile(r"on (\d+) of (\d+)\b")
OWN_SAMPLES = f"evidence/{OWN}/payload/{SAMPLES}"  # of an export that was asked by itself


def record(audit: Audit, asked: SoughtRecord) -> RecordAnswer:
    """Say where a record is. Each hit of the index is held against the evidence. Raises UserError for
    damage.
    """
    found: list[RecordIn] = []
    hits = defaultdict[tuple[Indexed, bool], list[Hit]](list)
    cut = dict[tuple[Indexed, bool], str]()
    judged: dict[tuple[str, str], Indexed] = {}
    owners = {name: owner for name, (owner, _) in audit.owners().items()}
    for name, owner in owners.items():
        for identity in asked.identities:
            for hit in _hits(audit, name, owner, identity):
                artifact = audit.index.artifact(hit.artifact)
                held = _held(audit, artifact, hit, identity)
                if held is not None:
                    alike = identity in asked.alike
                    found.append(replace(held, alike=alike))
                    hits[artifact, alike].append(hit)
                    cut[artifact, alike] = cut.get((artifact, alike)) or held.cut
    questions, unsure = asked.questions, False
    if asked.bare:
        stored = [_stored(audit, holder, found) for holder, _ in hits if holder.place.stage in HAVE_TEXT]
        questions = (*questions, *(name_of(row.likeness) for row in stored if isinstance(row, Row)))
        unsure = "gone" in stored
    for name, owner in owners.items():
        for artifact, question in _questions(audit, name, owner, questions):
            found.append(question)
            weights = audit.index.parent(artifact, FINE_TUNED_MODEL.name)
            judged |= {} if weights is None else {_named(weights): weights}
    models = [
        replace(one, cut=cut[holder, alike] if one.how in (TRAINED, INHERITED) else "", alike=alike)
        for (holder, alike), rows in hits.items()
        for one in _models(audit, holder, rows, judged, unsure=unsure)
    ]
    holders = {holder: None for holder, _ in hits}
    found += [one for holder in holders for one in _left_out(audit, holder, found, holders)]
    models += [described(audit, weights, JUDGED, 0) for weights in judged.values()]
    identities = tuple(identity.hex() for identity in asked.identities)
    by = [one for one in asked.identities if any(place.identity == one.hex() for place in found)]
    ways = dict.fromkeys(tuple(asked.reading(one).get(COLUMNS, ())) for one in by or asked.identities)
    return RecordAnswer(
        identities,
        tuple(found),
        once(models),
        checked(audit),
        transformed=_otherwise(audit, found) if asked.words else (),
        no_row=asked.no_row,
        columns=tuple(filter(None, ways)),
        unsure=() if found else asked.unsure,
    )


def _hits(audit: Audit, name: str, owner: int, wanted: bytes) -> list[Hit]:
    """Return what the index knows by this identity, or name of a question, under any key of an owner."""
    return [hit for lookup in audit.lookups(name, wanted) for hit in audit.index.hits(owner, lookup)]


def _stored(audit: Audit, holder: Indexed, found: Iterable[RecordIn]) -> Row | Literal["gone"] | None:
    """Return the row or document that was found in a data set or corpus by an identity. None: the identity is
    identity 1, or the record was left out. "gone": its text does not stand, and nothing says which identity
    it is.
    """
    named = (holder.place.stage, holder.place.key, holder.variant)
    place = next(one for one in found if (one.stage, one.key, one.variant) == named)
    artifact, ending = audit.artifact(holder), f"/{place.state}.parquet"
    if identity_form(artifact.figures) < EXACT or place.state == STATES[0]:
        return None
    names = (one for one in artifact.files if one.startswith("payload/") and one.endswith(ending))
    file = next((audit.stored.left(artifact, name) for name in names), None)
    fields = None if file is None else row_of(file, int(place.facts["row"]))
    if fields is None:
        return "gone"
    return as_row(fields) if "kind" in fields else Row("text", "", text=fields["text"])


def _left_out(
    audit: Audit, dataset: Indexed, found: Iterable[RecordIn], hits: Container[Indexed]
) -> Iterator[RecordIn]:
    """Yield a record of a data set in mixtures that were made of it, and left it out."""
    mixtures = (
        audit.allowed(audit.index.made_of(dataset, TRAINING_MIXTURE.name))
        if dataset.place.stage == TASK_DATASET.name
        else ()
    )
    named = (TASK_DATASET.name, dataset.place.key, dataset.variant)
    own = [one for one in found if (one.stage, one.key, one.variant) == named]
    for mixture in (each for each in mixtures if each not in hits):
        for one in own:
            if one.state in ("train", "validation") and one.facts.get("row") is not None:
                reason, tokens = parts_of(audit, mixture).why_left_out(one.state, int(one.facts["row"]))
                if reason:
                    place = (mixture.variant, TRAINING_MIXTURE.name, mixture.digest, mixture.place.key)
                    facts = {**one.facts, "reason": reason, "tokens": tokens}
                    yield RecordIn(one.identity, *place, STATES[0], facts, None, alike=one.alike)


def _otherwise(audit: Audit, found: Iterable[RecordIn]) -> tuple[Transformed, ...]:
    """Return the sources in which a record may stand otherwise than it was looked for: those of data sets
    that have it from elsewhere, or not at all.
    """
    places = {(one.digest, one.facts.get("path")) for one in found}
    there = (source for dataset, source in audit.transformed if (dataset, source.source) not in places)
    return tuple(dict.fromkeys(there))


def checked(audit: Audit) -> Checked:
    """Count what the index knows of whom the auditor may be told."""
    counts = [each for each in audit.counts if audit.tenant in (None, each.tenant) or not each.tenant]
    holders = [each for each in counts if each.stage in HAVE_RECORDS]
    judged = [each for each in counts if each.stage in ASKED]
    artifacts, records = (sum(each.artifacts for each in holders), sum(each.records for each in holders))
    models = sum(each.artifacts for each in counts if each.stage == FINE_TUNED_MODEL.name)
    gone = sum(each.gone for each in judged)
    removed = [f"the questions of {counted(gone, 'evaluation')}: {REMOVED}"] if gone else []
    unread = tuple(dict.fromkeys([*unread_for_records(audit), *removed]))
    return Checked(artifacts, records, models, unread, sum(each.artifacts for each in judged) - gone)


def unread_for_records(audit: Audit) -> Iterator[str]:
    """Yield why a record may be in more than is known: artifacts of which the records, or the very manifests,
    could not be read.
    """
    yield from (str(each.problem) for each in audit.allowed(audit.index.unread()))
    for each in audit.followed.problems:
        base = each.stage == BASE_MODEL.name and tenant_of(each.prefix) != SHARED_OWNER
        if (each.stage in LEAD_TO_RECORDS or base) and audit.allows_part(each.prefix):
            yield each.problem


def _held(audit: Audit, indexed: Indexed, hit: Hit, identity: bytes) -> RecordIn | None:
    """Return what the evidence says of a hit; None where it is another record with the same short lookup."""
    artifact = audit.artifact(indexed)
    name = f"evidence/{ORIGINS if hit.state else DROPPED}"
    state = STATES[hit.state]
    answer = RecordIn(
        identity.hex(),
        indexed.variant,
        indexed.place.stage,
        indexed.digest,
        indexed.place.key,
        state,
        {},
        None,
    )
    if not audit.stored.has(artifact, name):
        if isinstance(audit.said(indexed), Removed):  # its rows went with its payload
            return replace(answer, facts={"reason": BY_INDEX})
        stored = (member for batch in members_of(audit.stored, artifact) for member in batch)
        there = next((one for one in stored if (one.state, one.number) == (hit.state, hit.number)), None)
        return answer if there is not None and _is_of(audit, indexed, there, identity) else None
    row, facts = record_row(audit.stored.file(artifact, name), hit.number)
    if not row.is_of(identity):
        return None
    if indexed.place.stage == TRAINING_MIXTURE.name:
        answer = replace(answer, cut=parts_of(audit, indexed).said(facts))
    head = TreeHead.of(artifact.figures, file=audit.store.uri(artifact.manifest_path))
    if head is None or not audit.stored.has(artifact, f"evidence/{TREE}"):
        return replace(answer, facts=facts)
    leaves = audit.leaves(indexed, artifact)
    at = leaves.find(hit.number, dropped=not hit.state)
    key = audit.keys(indexed.tenant).of_id(head.key)
    if at is None or row.leaf(_lookup(audit, artifact, key, identity, at)) != leaves.merkle.leaf(at):
        problem = "a record that its tree does not have"
        raise UserError(problem, file=leaves.file, value=identity.hex()[:12], fix=LOOK)
    if leaves.merkle.root.hex() != head.root:
        problem = "the root of a record tree is not the one of its manifest"
        raise UserError(problem, file=leaves.file, fix=LOOK)
    return replace(answer, facts=facts, inclusion=inclusion(leaves.merkle, at))


def _is_of(audit: Audit, indexed: Indexed, held: HeldRecord, identity: bytes) -> bool:
    """Say whether what an artifact without evidence holds is the record of an identity."""
    return held.known in audit.lookups(indexed.tenant, identity) if held.keyed else held.known == identity


def _lookup(audit: Audit, artifact: Artifact, key: RecordKey | None, identity: bytes, at: int) -> bytes:
    """Return the lookup of a leaf: made by the key of its tree, or read where the key is lost."""
    return audit.tree(artifact).lookup(at) if key is None else key.lookup(identity)


def _questions(
    audit: Audit, name: str, owner: int, questions: Iterable[bytes]
) -> Iterator[tuple[Indexed, RecordIn]]:
    """Yield the evaluations of an owner that asked a question of one of these names of a model; each question
    once.
    """
    seen: set[Hit] = set()
    for wanted in dict.fromkeys(questions):
        for hit in _hits(audit, name, owner, wanted):
            indexed = audit.index.artifact(hit.artifact)
            if hit in seen or indexed.place.stage not in ASKED:
                continue
            seen.add(hit)
            facts = _question_facts(audit, indexed, hit, wanted)
            if facts is not None:
                place = (indexed.variant, indexed.place.stage, indexed.digest, indexed.place.key)
                yield indexed, RecordIn(wanted.hex(), *place, STATES[hit.state], facts, None)


def _question_facts(audit: Audit, indexed: Indexed, hit: Hit, wanted: bytes) -> dict[str, str] | None:
    """Return what the evaluation says of a hit; None where it is another question with the same short
    lookup.
    """
    if isinstance(audit.said(indexed), Removed):
        return {"reason": BY_INDEX}
    questions = judged_questions(audit.stored, audit.artifact(indexed))
    found = next(islice(questions, hit.number, None), None)
    return None if found is None or wanted not in found.names else found.facts


def _models(
    audit: Audit,
    holder: Indexed,
    hits: Iterable[Hit],
    judged: Container[tuple[str, str]],
    *,
    unsure: bool,
) -> Iterator[ModelThatHas]:
    """Yield the models that have a record by one of the artifacts that it is in. `hits`: its rows there.
    `judged`: those that a question asked it of, as `_named`; it was not only held out for these. `unsure`:
    nothing says by which questions it would be asked.
    """
    rows = defaultdict[str, list[int]](list)
    for hit in hits:
        rows[STATES[hit.state]].append(hit.number)
    held_out = list[Indexed]()
    if holder.place.stage == TRAINING_MIXTURE.name:
        models = audit.allowed(audit.index.made_of(holder, FINE_TUNED_MODEL.name))
        for model in models if "train" in rows else ():
            yield from _with_children(audit, model, _times(audit, holder, model, rows["train"]))
        for model in models if "validation" in rows else ():
            yield _validated(audit, model)
        held_out = models if HOLDOUT in rows else []
    elif holder.place.stage == TASK_DATASET.name and "test" in rows:
        held_out = audit.allowed(
            made_through(audit.index, holder, TRAINING_MIXTURE.name, FINE_TUNED_MODEL.name)
        )
    for model in held_out:
        if _named(model) not in judged:
            yield described(audit, model, PERHAPS if unsure or not _tells(audit, model) else HELD_OUT, 0)


def _named(model: Indexed) -> tuple[str, str]:
    """Return what equal weights of a variant have in common."""
    return model.place.prefix, model.digest


def _times(audit: Audit, mixture: Indexed, model: Indexed, rows: Iterable[int]) -> int | None:
    """Return how often a model was trained on a record that stands in these rows of its mixture, or of an
    equal one, which may number its rows otherwise. None: not known.
    """
    if model.problem:
        return None
    if audit.index.parent(model, TRAINING_MIXTURE.name) == mixture:
        return sum(audit.index.times(model.id, row) for row in rows)
    if not rows_stand(audit, mixture):
        return None
    times = times_of(audit.stored, audit.artifact(model), audit.artifact(mixture))
    return sum(int(times[row]) for row in rows)


def _validated(audit: Audit, model: Indexed) -> ModelThatHas:
    """Return the model as validated by the whole validation split, or by some of it."""
    said = read(audit, model).figures.get("measured_on", {}).get("validation loss", "")
    found = _MEASURED.match(said)
    if found is None or found[1] == found[2]:
        return described(audit, model, VALIDATED, 0)
    return replace(described(audit, model, VALIDATION, 0), measured=f"{found[1]} of {found[2]}")


def _tells(audit: Audit, model: Indexed) -> bool:
    """Say whether all questions of a model's evaluations are known, by what rows and documents are known by:
    those that retention removed are not, once the index is made again, nor those that an export was asked.
    """
    for each in (one for stage in ASKED for one in audit.index.made_of(model, stage)):
        if each.problem or not each.records:
            return False
        older = int(audit.artifact(each).predicate["stage_version"]) < BY_CONTENT
        if older and each.place.stage == EVALUATION.name:
            return False
    exports = audit.index.made_of(model, MODEL_EXPORT.name)
    try:
        return not any(audit.stored.has(audit.artifact(one), OWN_SAMPLES) for one in exports)
    except UserError:  # a manifest that is gone or altered, which `verify` says
        return False


def _with_children(audit: Audit, model: Indexed, times: int | None) -> Iterator[ModelThatHas]:
    """Yield a model by whose mixture a record was trained on so many times, and then all that start from its
    releases, however far.
    """
    reached = times != 0
    yield described(audit, model, TRAINED if reached else UNREACHED, times)
    for child, parent in descendants(audit, model) if reached else ():
        yield replace(described(audit, child, INHERITED, times), through=parent.digest)


def descendants(audit: Audit, model: Indexed) -> Iterator[tuple[Indexed, Indexed]]:
    """Return (child, parent) of every model that starts from a model's exports, children of children among
    them.
    """

    def children(parent: Indexed) -> list[Indexed]:
        return audit.allowed(made_through(audit.index, parent, *TO_CHILD))

    return ((child, parent) for child, parent in walk([model], children) if parent is not None)


def described(audit: Audit, model: Indexed, how: str, times: int | None) -> ModelThatHas:
    exports = audit.index.made_of(model, MODEL_EXPORT.name)
    releases = dict.fromkeys(one for export in exports for one in audit.releases_of(export))
    digests = dict.fromkeys(export.digest for export in exports)
    named = (model.variant or "", model.digest, model.created)
    return ModelThatHas(*named, how, times, tuple(digests), tuple(releases))


def once(models: Iterable[ModelThatHas]) -> tuple[ModelThatHas, ...]:
    """Return each model once for each way that it has the record: this very one before one that is like it,
    by the most times.
    """
    found: dict[tuple[str, str, str, str | None], ModelThatHas] = {}
    for model in models:
        name = (model.variant, model.weights, model.how, model.through)
        if name not in found or _surer(model) > _surer(found[name]):
            found[name] = model
    return tuple(found.values())


def _surer(model: ModelThatHas) -> tuple[bool, int]:
    return not model.alike, model.times or 0


def is_another(audit: Audit, asked: SoughtRecord, row: Row) -> bool:
    """Say whether a stored row is another record than the asked one. A row that is only like it is, where an
    artifact knows the row by identity 2; older ones do not tell it from the asked one.
    """
    if row.identity in asked.identities:
        return False
    return row.identity_1 not in asked.identities or is_known(audit, row.identity)


def is_known(audit: Audit, identity: bytes) -> bool:
    """Say whether the index knows a record by this identity."""
    return any(_hits(audit, name, owner, identity) for name, (owner, _) in audit.owners().items())


def known_as(audit: Audit, identities: tuple[bytes, ...]) -> bytes:
    """Return by which of its `Row.identities` a stored row is known."""
    return next((one for one in identities[:-1] if is_known(audit, one)), identities[-1])
