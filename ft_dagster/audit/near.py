"""Records that are nearly the one that is asked for: by the runs of words that they share.

The index has no text, so this reads the rows of every data set and corpus, those of equal ones once. Every
row is compared exactly. Rows that a data set left out, and rows whose text retention removed, are not there
to be read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from ft_dagster.audit.answers import NearAnswer, NearRecord
from ft_dagster.audit.asked import AskedRecord
from ft_dagster.audit.desk import Audit
from ft_dagster.audit.index import Indexed
from ft_dagster.audit.members import BASE_TEXT, CORPUS, DATASET
from ft_dagster.audit.models import documents
from ft_dagster.audit.records import record, unread_for_records
from ft_dagster.data.dataset_io import read_split
from ft_dagster.data.dedup import word_grams
from ft_dagster.data.rows import Row
from ft_dagster.errors import UserError
from ft_dagster.store.artifacts import Removed

MOST = 50  # near records that are told, the nearest
AT_ONCE = 5_000  # rows between two words of progress
TEXTS = (DATASET, CORPUS, BASE_TEXT)


def near_records(
    audit: Audit, asked: AskedRecord, threshold: float, say: Callable[[str], None] = lambda line: None
) -> NearAnswer:
    """Records other than the asked one whose Jaccard similarity to it, of the sets of their runs of words
    (`data.dedup`), is at least `threshold`; the nearest first. The asked one is read in each way that sources
    read it, and the nearest counts. Takes some 25 µs a row of 50 words.

    Raises UserError for a record that is given by its identity, which has no words.
    """
    wanted = [word_grams(words) for words in asked.words if words]
    if not wanted:
        problem = "without its words nothing tells what is near it"
        raise UserError(problem, field="--near", fix="Give its text, or the row as JSON")
    began = time.monotonic()
    unread = list(unread_for_records(audit))
    holders, removed = _holders(audit, unread)
    total = sum(each.records for each in holders)
    found: dict[bytes, float] = {}
    read = 0
    for row in _rows(audit, holders, unread):
        read += 1
        grams = word_grams(row.words)
        similarity = max(len(each & grams) / len(each | grams) for each in wanted)
        if similarity >= threshold and row.identity not in asked.identities:
            found[row.identity] = similarity
        if not read % AT_ONCE:
            left = (time.monotonic() - began) / read * (total - read)
            say(f"{read:,} of {total:,} rows, some {max(left, 0):.0f} s left")
    nearest = sorted(found.items(), key=lambda each: (-each[1], each[0]))
    told = tuple(_told(audit, *each) for each in nearest[:MOST])
    seconds = time.monotonic() - began
    return NearAnswer(
        threshold, told, len(found), read, len(holders), removed, seconds, tuple(dict.fromkeys(unread))
    )


def _holders(audit: Audit, unread: list[str]) -> tuple[list[Indexed], int]:
    """Data sets and corpora of different payloads, and how many have no text any more: of equal ones, one
    that retention left. `unread`: takes what cannot be read, here and below.
    """
    left: dict[str, Indexed] = {}
    removed: set[str] = set()
    for each in (each for stage in TEXTS for each in audit.allowed(audit.index.of_stage(stage))):
        try:
            if isinstance(audit.said(each), Removed):
                removed.add(each.digest)
            else:
                left[each.digest] = each
        except UserError as error:
            unread.append(str(error))
    return list(left.values()), len(removed - left.keys())


def _rows(audit: Audit, holders: Iterable[Indexed], unread: list[str]) -> Iterator[Row]:
    """Of a data set's splits, of a corpus' parts."""
    for holder in holders:
        artifact = audit.artifact(holder)
        names = (n for n in artifact.files if n.startswith("payload/") and n.endswith(".parquet"))
        try:
            for file in (audit.shelf.file(artifact, name) for name in names):
                yield from read_split(file) if holder.place.stage == DATASET else documents(file)
        except UserError as error:
            unread.append(str(error))


def _told(audit: Audit, identity: bytes, similarity: float) -> NearRecord:
    answer = record(audit, AskedRecord((identity,), "near"))
    return NearRecord(identity.hex(), similarity, answer.found, answer.models)
