"""Finds what has a text inside it, and which records are nearly another, in one reading of all stored text.

A record that is asked for by what it is (`records`) may stand inside a longer row or document, and the name
of a person does. That is found by reading: the index has no text.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ft_dagster.audit.answers import ContainingRecord, ModelThatHas, NearAnswer, RecordIn, SearchAnswer
from ft_dagster.audit.audit import Audit
from ft_dagster.audit.index.artifact_records import ASKED
from ft_dagster.audit.index.follow import MALFORMED
from ft_dagster.audit.index.index import Indexed
from ft_dagster.audit.parts import parts_of
from ft_dagster.audit.records import ANSWERED, JUDGED, described, is_another, known_as, once, record
from ft_dagster.audit.search.inside import AllInside, rows_with
from ft_dagster.audit.search.near import Nearness
from ft_dagster.audit.search.stored_text import (
    ANSWER,
    COLUMNS,
    LOOK,
    RECORDS,
    ROW,
    Batch,
    TextFiles,
    read_texts,
    text_files,
)
from ft_dagster.audit.sought_record import SoughtRecord, StoredRow, sought_row
from ft_dagster.data.mixture.cuts import Cut, is_same_up_to
from ft_dagster.data.rows.dataset_io import DUPLICATE
from ft_dagster.errors import UserError
from ft_dagster.report.figures import counted
from ft_dagster.stage_entries import FINE_TUNED_MODEL, TASK_DATASET, TRAINING_MIXTURE

MOST = 50  # records, and questions, that are told
LOOKED_UP = 1000  # records of which the models are told
BYTES_OF_LETTER = 4  # at most, and a token is one byte at least
Say = Callable[[str], None]


@dataclass(frozen=True)
class TextFindings:
    """Holds what a look through the stored text found; None of what was not looked for."""

    search: SearchAnswer | None
    near: NearAnswer | None


def look_through(
    audit: Audit,
    asked: SoughtRecord,
    say: Say = lambda line: None,
    *,
    search: bool = True,
    part: bool = False,
    within: str | None = None,
    near: float | None = None,
    most: int = MOST,
) -> TextFindings:
    """Return what contains the record, where `search`; what is nearly it, from the similarity `near` on.
    `part`: also what has it inside a word. `within`: of a tenant or a variant alone. `most`: records, and
    questions, that are told. Each distinct file is read once.

    Raises UserError: a record without text has nothing near it, and no text that `part` or `within` could
    narrow; no such tenant.
    """
    nearness = None if near is None else Nearness(audit, asked, near)
    inside = _Inside(audit, asked, part, _UpToCut.of(audit, asked), most) if search else None
    if inside is not None and not inside.sought:
        inside = None  # an identity has no text, nor have characters that nobody sees
    if inside is None and (part or (within is not None and nearness is None)):
        raise UserError(
            f"no stored text is searched for this, so {'--part' if part else '--within'} says nothing",
            value=asked.said,
            fix="Give the text itself, without --no-search, or leave the option out",
        )
    if inside is None and nearness is None:
        return TextFindings(None, None)
    begun = time.monotonic()
    found = text_files(audit, tuple(COLUMNS) if inside else RECORDS, within)
    for batch in read_texts(audit, found, say):
        if inside is not None:
            inside.see(batch)
        if nearness is not None and batch.file.kind in RECORDS:
            nearness.see(batch)
    seconds = time.monotonic() - begun
    return TextFindings(
        None if inside is None else inside.answer(found, within, seconds, say),
        None if nearness is None else nearness.answer(found, seconds),
    )


@dataclass
class _UpToCut:
    """Finds records that were cut in a mixture, and are the asked one as far as that. `cuts`: by data set and
    split, of its rows. `older`: mixtures that do not say where they cut rows, of examples that are no longer
    than the asked one may be.
    """

    audit: Audit
    record: SoughtRecord
    cuts: dict[tuple[str, str], dict[int, list[Cut]]]
    older: int
    found: dict[StoredRow, None] = field(default_factory=dict)

    @classmethod
    def of(cls, audit: Audit, asked: SoughtRecord) -> _UpToCut:
        cuts, older = defaultdict[tuple[str, str], dict[int, list[Cut]]](dict), 0
        longest = max((sum(len(text) for _, text in row.parts) for row in asked.rows), default=0)
        for mixture in audit.allowed(audit.index.of_stage(TRAINING_MIXTURE.name)) if asked.rows else ():
            digest, _ = audit.index.inputs(mixture).get(TASK_DATASET.name, ("", None))
            try:
                parts = parts_of(audit, mixture)
            except MALFORMED:  # its records could not be read either, which is told
                continue
            cut_somewhere = parts.full or parts.unknown
            older += bool(cut_somewhere and longest * BYTES_OF_LETTER >= parts.max_length)
            for cut in parts.cuts.values():
                if cut.part is not None or cut.is_unfollowed:
                    cuts[digest, cut.split].setdefault(cut.row, []).append(cut)
        return cls(audit, asked, cuts, older)

    def see(self, batch: Batch) -> None:
        split = batch.file.name.removeprefix("payload/").removesuffix(".parquet")
        cuts = self.cuts.get((batch.file.artifact.digest, split), {}) if batch.file.kind == ROW else {}
        for number in range(batch.first, batch.first + len(batch.texts)) if cuts else ():
            for cut in cuts.get(number, ()):
                row = batch.row(number - batch.first)
                other = is_another(self.audit, self.record, row)
                if other and any(is_same_up_to(cut, row, asked) for asked in self.record.rows):
                    self.found[StoredRow.of(row)] = None

    def cannot(self) -> Iterator[str]:
        if self.older:
            where = counted(self.older, "mixture that cuts rows", "mixtures that cut rows")
            yield f"what differs from a row of {where} past its cut alone: made before, they do not say where"


def _containing(audit: Audit, row: StoredRow) -> ContainingRecord:
    answer = record(audit, sought_row(row, "inside"))
    return ContainingRecord(known_as(audit, row.identities).hex(), answer.found, answer.models)


@dataclass
class _Inside:
    """Holds what was found so far. `asked`: (file, task, question) -> where it stands there."""

    audit: Audit
    record: SoughtRecord
    part: bool
    cut: _UpToCut
    most: int = MOST
    rows: dict[StoredRow, None] = field(default_factory=dict)
    asked: dict[tuple[str, ...], RecordIn] = field(default_factory=dict)
    answered: dict[int, Indexed] = field(default_factory=dict)
    judged: dict[int, Indexed] = field(default_factory=dict)
    looks: dict[int, Indexed] = field(default_factory=dict)
    size: int = 0

    def __post_init__(self) -> None:
        each = (AllInside.of(each, part=self.part) for each in self.record.texts)
        self.sought = [one for one in each if one is not None]

    def see(self, batch: Batch) -> None:
        self.cut.see(batch)
        self.size += sum(_bytes_of(text) for row in batch.texts for text in row)
        for at in rows_with(self.sought, batch.texts):
            if batch.file.kind in RECORDS:
                row = batch.row(at)
                if is_another(self.audit, self.record, row):
                    self.rows[StoredRow.of(row)] = None
            else:
                self._see_question(batch, at)

    def _see_question(self, batch: Batch, at: int) -> None:
        said, holder = batch.said(at), batch.file.holder
        names = COLUMNS[batch.file.kind][0] if batch.file.kind == ANSWER else (batch.file.kind,)
        where = [
            name
            for name, text in zip(names, batch.texts[at], strict=False)
            if any(one.are_in([text]) for one in self.sought)
        ] or [batch.file.kind]
        facts = {**said, "in": ", ".join(where)}
        place = (holder.variant, holder.place.stage, holder.digest, holder.place.key)
        named = (batch.file.kind, *map(str, facts.values()), str(batch.first + at if not said else ""))
        self.asked.setdefault(
            (holder.place.prefix, *named), RecordIn("", *place, batch.file.kind, facts, None)
        )
        if batch.file.kind == LOOK:
            self.looks[holder.id] = holder
        if batch.file.kind == ANSWER and holder.place.stage in ASKED:
            if "answered" in where:
                self.answered[holder.id] = holder
            if {"asked", "expected"} & set(where):
                self.judged[holder.id] = holder

    def answer(self, found: TextFiles, within: str | None, seconds: float, say: Say) -> SearchAnswer:
        audit = self.audit
        records, models = list[ContainingRecord](), list[ModelThatHas]()
        for number, row in enumerate(list(self.rows)[:LOOKED_UP], 1):
            found_one = _containing(audit, row)
            models += found_one.models
            if number <= self.most:
                records.append(found_one)
            elif not number % MOST:
                say(f"{number:,} of {len(self.rows):,} rows looked up")
        cut = tuple(_containing(audit, row) for row in list(self.cut.found)[: self.most])
        models += [one for each in cut for one in each.models]
        for holders, how in ((self.judged, JUDGED), (self.answered, ANSWERED)):
            weights = (audit.index.parent(each, FINE_TUNED_MODEL.name) for each in holders.values())
            models += [described(audit, each, how, 0) for each in weights if each is not None]
        models += [described(audit, each, ANSWERED, 0) for each in self.looks.values()]
        cannot = (*_cannot(audit, found), *self.cut.cannot())
        return SearchAnswer(
            len(self.rows), tuple(records), min(LOOKED_UP, len(self.rows)),
            len(self.asked), tuple(self.asked.values())[: self.most],
            once(models), cannot, self.part, within, self.size, seconds, cut,
        )  # fmt: skip


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _cannot(audit: Audit, found: TextFiles) -> Iterator[str]:
    """Yield what could not be searched, and why."""
    for stage, number in sorted(found.removed.items()):
        yield f"the text of {counted(number, f'{stage} artifact')}, which retention removed"
    left_out = defaultdict[str, int](int)
    for holder in {each.digest: each for each in found.datasets}.values():
        dropped = audit.artifact(holder).figures.get("dropped")
        for reason, number in (dropped if isinstance(dropped, dict) else {}).items():
            left_out[str(reason)] += int(number)
    left_out.pop(DUPLICATE, None)  # a row of the same text was kept
    for reason, number in sorted(left_out.items()):
        if number:
            yield f"{counted(number, 'row')} that data sets left out ({reason}), whose text is not kept"
    yield from dict.fromkeys(found.unread)
