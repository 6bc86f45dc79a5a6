"""Finds records that are nearly the one that is asked for, by the runs of words that they share.

The index has no text, so this is told of the rows of every data set and corpus as they are read (`search`).
Every row is compared exactly, by runs of five words; with a short record, whose few runs one other word would
take apart, by shorter ones.
"""

from __future__ import annotations

from ft_dagster.audit.answers import NearAnswer, NearRecord
from ft_dagster.audit.audit import Audit
from ft_dagster.audit.records import is_another, known_as, record, unread_for_records
from ft_dagster.audit.search.stored_text import TEXTS, Batch, TextFiles
from ft_dagster.audit.sought_record import SoughtRecord, StoredRow, sought_row
from ft_dagster.data.rows.dedup import WORDS, word_grams
from ft_dagster.errors import UserError

MOST = 50  # near records that are told, the nearest
RUNS = 4  # of a record of fewer words than so many runs of WORDS, runs are as much shorter


class Nearness:
    """Finds records other than the asked one whose Jaccard similarity to it, of the sets of their runs of
    words (`rows.dedup`), is at least `threshold`. The asked one is read in each way that sources read it, and
    the nearest counts. Takes some 25 µs a row of 50 words.

    Raises UserError for a record that is given by its identity, which has no words.
    """

    def __init__(self, audit: Audit, asked: SoughtRecord, threshold: float) -> None:
        words = [each for each in asked.words if each]
        if not words:
            problem = "without its words nothing tells what is near it"
            raise UserError(problem, field="--near", fix="Give its text, or the row as JSON")
        self._audit, self._asked, self._threshold = audit, asked, threshold
        self.run = max(1, min(WORDS, max(map(len, words)) // RUNS))
        self._wanted = [word_grams(each, self.run) for each in words]
        self._found: dict[StoredRow, float] = {}
        self._read = 0

    def see(self, batch: Batch) -> None:
        for at in range(len(batch.texts)):
            row = batch.row(at)
            grams = word_grams(row.words, self.run)
            similarity = max(len(each & grams) / len(each | grams) for each in self._wanted)
            if similarity >= self._threshold and is_another(self._audit, self._asked, row):
                self._found[StoredRow.of(row)] = similarity
        self._read += len(batch.texts)

    def answer(self, files: TextFiles, seconds: float) -> NearAnswer:
        """Return the nearest first."""
        nearest = sorted(self._found.items(), key=lambda each: (-each[1], each[0]))
        told = []
        for row, similarity in nearest[:MOST]:
            found = record(self._audit, sought_row(row, "near"))
            known = known_as(self._audit, row.identities)
            told.append(NearRecord(known.hex(), similarity, found.found, found.models))
        removed = sum(number for stage, number in files.removed.items() if stage in TEXTS)
        unread = tuple(dict.fromkeys((*unread_for_records(self._audit), *files.unread)))
        return NearAnswer(
            self._threshold,
            tuple(told),
            len(nearest),
            self._read,
            files.holders,
            removed,
            seconds,
            unread,
            self.run,
        )
