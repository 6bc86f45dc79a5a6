"""Lists the records that a model was trained on, each with its content, and how much of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ft_dagster.audit.audit import Audit, rows_stand
from ft_dagster.audit.index.artifact_records import (
    HAVE_RECORDS,
    TRAIN,
    HeldRecord,
    Times,
    members_of,
    times_of,
)
from ft_dagster.audit.index.follow import MALFORMED, problem_of
from ft_dagster.audit.index.index import Indexed
from ft_dagster.audit.parts import is_perhaps, parts_of
from ft_dagster.data.files.parquet import dicts_of
from ft_dagster.data.mixture.mixture_figures import GENERAL
from ft_dagster.data.rows.dataset_io import ORIGINS, as_row, read_split
from ft_dagster.data.rows.row_changes import known_now
from ft_dagster.data.rows.rows import Row
from ft_dagster.errors import UserError
from ft_dagster.lineage.graph import needed
from ft_dagster.records.record_tree import RecordRow, TreeHead, identity_form, record_rows
from ft_dagster.records.sealed_rows import has_identities, identity_in
from ft_dagster.stage_entries import GENERAL_CORPUS, TASK_DATASET, TRAINING_MIXTURE
from ft_dagster.store import Artifact


class TrainedRecord(NamedTuple):
    """Is a record as a model was trained on it. `identity`: None where evidence has no identities and
    retention removed the text; `known`: what the evidence has, that or a keyed lookup. `times`: examples of
    it. `facts`: of its row, the first of those that were trained on; empty of an older mixture. `content`:
    the row or document itself, as JSON has it; None where retention removed it. `cut`: how much of it was
    trained on, in words; empty: all.
    """

    identity: str | None
    times: int
    facts: Mapping[str, Any]
    content: Mapping[str, Any] | None
    cut: str = ""
    known: str = ""


def training_records(audit: Audit, weights: Indexed) -> Iterator[TrainedRecord]:
    """Yield exactly what a model was trained on before its exported checkpoint, a record once, with its
    content: of each of its `_mixtures`.

    Raises UserError where the mixture, its data set or the ledger is gone or was altered.
    """
    mixtures, told = mixtures_of(audit, weights)[0], set[str]()
    for number, mixture in enumerate(mixtures, start=1):
        for one in _records_of(audit, weights, mixture):
            name = one.identity or one.known
            if name not in told:
                yield one
            if number < len(mixtures):
                told.add(name)


def _records_of(audit: Audit, weights: Indexed, mixture: Indexed) -> Iterator[TrainedRecord]:
    """Yield the records by one mixture."""
    tuned, mixed = audit.artifact(weights), audit.artifact(mixture)
    times = times_of(audit.stored, tuned, mixed)
    left: dict[bytes, int] = {}
    for member in _trained(audit, mixed, times):
        left[member.known] = left.get(member.known, 0) + int(times[member.number])
    contents, parts = _contents(audit, mixture), parts_of(audit, mixture)
    rows = _train_rows(audit, mixed)
    for member in (one for batch in members_of(audit.stored, mixed) for one in batch if one.state == TRAIN):
        row, said = next(rows, (None, {}))
        if times[member.number] and member.known in left:
            stored = contents.get(_place(said), contents.get(member.known))
            identity: bytes | None = member.known
            if member.keyed:
                identity = None if stored is None or row is None else _identity(stored, row)
            count, content = left.pop(member.known), None if stored is None else _content(stored)
            named = None if identity is None else identity.hex()
            yield TrainedRecord(named, count, said, content, parts.said(said), member.known.hex())


def in_part(audit: Audit, weights: Indexed) -> tuple[int, int]:
    """Count the records that a model was trained on in part, and those perhaps."""
    sure, perhaps = set[bytes](), set[bytes]()
    for mixture in mixtures_of(audit, weights)[0]:
        parts, mixed = parts_of(audit, mixture), audit.artifact(mixture)
        if parts.is_whole or not audit.stored.has(mixed, f"evidence/{ORIGINS}"):
            continue
        times = times_of(audit.stored, audit.artifact(weights), mixed)
        members = (one for batch in members_of(audit.stored, mixed) for one in batch if one.state == TRAIN)
        for member, (_, facts) in zip(members, _train_rows(audit, mixed), strict=True):
            if times[member.number] and (said := parts.said(facts)):
                (perhaps if is_perhaps(said) else sure).add(member.known)
    return len(sure), len(perhaps - sure)


def records_of(audit: Audit, weights: Indexed) -> set[bytes]:
    """Return what the records that a model was trained on are known by: their identities. Where its mixtures
    know them all by lookups under one key, these.
    """
    names = naming_of(audit, weights)
    return _known(audit, weights) if len(names) == 1 else identities_of(audit, weights)


def naming_of(audit: Audit, *models: Indexed) -> set[str]:
    """Return by which keys the mixtures of models name their records: ids, empty for identities."""
    mixtures = (audit.artifact(each) for model in models for each in mixtures_of(audit, model)[0])
    return {_naming(audit, mixture) for mixture in mixtures}


def _naming(audit: Audit, mixture: Artifact) -> str:
    name, head = f"evidence/{ORIGINS}", TreeHead.of(mixture.figures)
    if head is None or not audit.stored.has(mixture, name):
        return ""
    return "" if has_identities(audit.stored.file(mixture, name)) else head.key


def _known(audit: Audit, weights: Indexed) -> set[bytes]:
    found: set[bytes] = set()
    for mixture in map(audit.artifact, mixtures_of(audit, weights)[0]):
        times = times_of(audit.stored, audit.artifact(weights), mixture)
        found |= {one.known for one in _trained(audit, mixture, times)}
    return found


def identities_of(audit: Audit, weights: Indexed) -> set[bytes]:
    """Return the identities of the records that a model was trained on. Raises UserError where evidence has
    none of them and retention removed their text.
    """
    if naming_of(audit, weights) == {""}:
        return _known(audit, weights)
    found = {one.identity for one in training_records(audit, weights)}
    if None in found:
        problem = "its records are known by keyed lookups alone, and retention removed their text"
        fix = "Compare it with a model whose records are known under the same key"
        raise UserError(problem, value=weights.digest[:12], fix=fix)
    return {bytes.fromhex(one) for one in found if one is not None}


def forms_of(audit: Audit, *models: Indexed) -> set[int]:
    """Return by which forms of identity the data sets and corpora of models may know their records."""
    mixtures = (mixture for model in models for mixture in mixtures_of(audit, model)[0])
    stages = (TASK_DATASET.name, GENERAL_CORPUS.name)
    parts = (audit.index.parent(mixture, stage) for mixture in mixtures for stage in stages)
    return {identity_form(audit.artifact(part).figures) for part in parts if part is not None}


def records_as_known(audit: Audit, weights: Indexed) -> dict[bytes, bytes]:
    return {one: one for one in _known(audit, weights)}


def identities_now(audit: Audit, weights: Indexed) -> dict[bytes, bytes]:
    """Return the identities of the records that a model was trained on as this version makes them -> what
    they are known by.
    """
    mixtures = mixtures_of(audit, weights)[0]
    rows = (row for mixture in mixtures for _, _, row in _training_rows(audit, mixture))
    return known_now(identities_of(audit, weights), rows)


def mixtures_of(audit: Audit, weights: Indexed) -> tuple[list[Indexed], list[str]]:
    """Return the mixture that a model names, and those of other rows that came out equal to it: it was
    trained on either's. Of the latter, why the rows of some cannot be read.
    """
    own = needed(audit.index, weights, TRAINING_MIXTURE.name)
    found, unread, seen = [own], list[str](), {_rows_of(audit, own)}
    for each in audit.index.equals(own):
        if (rows := _rows_of(audit, each)) in seen:
            continue
        problem = _problem_of(audit, weights, each)
        if problem:
            unread.append(f"the rows of an equal {TRAINING_MIXTURE.name}, {each.place.key[:12]}: {problem}")
        else:
            found.append(each)
            seen.add(rows)
    return found, unread


def _rows_of(audit: Audit, mixture: Indexed) -> frozenset[str]:
    """Return what says of which rows a mixture was made."""
    inputs = audit.index.inputs(mixture)
    return frozenset(inputs[stage][0] for stage in HAVE_RECORDS if stage in inputs)


def _problem_of(audit: Audit, weights: Indexed, mixture: Indexed) -> str:
    """Say why the rows of a mixture cannot be told; empty where they can."""
    try:
        if not rows_stand(audit, mixture):
            return "removed by retention"
        for _ in _records_of(audit, weights, mixture):
            pass
    except MALFORMED as error:
        return problem_of(error, audit.store.uri(mixture.place.path))
    return ""


def _trained(audit: Audit, mixture: Artifact, times: Times) -> Iterator[HeldRecord]:
    """Yield the rows of a mixture that were trained on."""
    for batch in members_of(audit.stored, mixture):
        yield from (one for one in batch if one.state == TRAIN and times[one.number])


def _train_rows(audit: Audit, mixture: Artifact) -> Iterator[tuple[RecordRow, Mapping[str, Any]]]:
    """Yield each training record in order, with its facts; none of an older mixture."""
    if audit.stored.has(mixture, f"evidence/{ORIGINS}"):
        rows = record_rows(audit.stored.file(mixture, f"evidence/{ORIGINS}"))
        for row in (row for batch in rows for row in batch):
            facts = json.loads(row.facts)
            if facts["split"] == "train":
                yield row, facts


def _contents(audit: Audit, mixture: Indexed) -> dict[Any, Row]:
    """Return every training row and document that a mixture can have, by (of a corpus or not, its number) and
    by identity. All of it in memory.
    """
    found: dict[Any, Row] = {}
    for stage, number, row in _training_rows(audit, mixture):
        found |= dict.fromkeys((*row.identities, (stage == GENERAL_CORPUS.name, number)), row)
    return found


def _place(facts: Mapping[str, Any]) -> tuple[bool, Any]:
    return str(facts.get("source", "")).startswith(GENERAL), facts.get("row")


def _identity(stored: Row, row: RecordRow) -> bytes | None:
    return identity_in(stored, row.record, row.salt)


def _content(row: Row) -> Mapping[str, Any]:
    """Return the content of a row, as JSON has it."""
    turns = [{"role": turn.role, "content": turn.content, **turn.said} for turn in row.messages]
    content: dict[str, Any] = {"messages": turns} if turns else dict(row.parts)
    return content | ({"tools": row.given_tools} if row.tools else {})


def _training_rows(audit: Audit, mixture: Indexed) -> Iterator[tuple[str, int, Row]]:
    """Yield (stage, number, row) of all training rows and documents that a mixture can have; none of what
    retention removed.
    """
    for stage in (TASK_DATASET.name, GENERAL_CORPUS.name):
        if stage not in audit.index.inputs(mixture):
            continue
        above = audit.artifact(needed(audit.index, mixture, stage))
        for name in above.files:
            if name.startswith("payload/") and name.endswith("train.parquet"):
                file = audit.stored.left(above, name)
                if file is not None:
                    rows = read_split(file) if stage == TASK_DATASET.name else documents(file)
                    yield from ((stage, number, row) for number, row in enumerate(rows))


def documents(file: Path) -> Iterator[Row]:
    """Yield the documents of a part of a corpus, in order, as rows; streamed."""
    empty = dict.fromkeys(("messages", "prompt", "completion", "group"))
    for one in dicts_of(file, "text", "source", "licence"):
        yield as_row({**empty, **one, "kind": "text", "weight": 1.0})
