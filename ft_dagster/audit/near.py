"""Records that are nearly the one that is asked for: by the runs of words that they share.

The index has no text, so this reads the rows of every data set and corpus, those of equal ones once. Every
row is compared exactly. Rows that a data set left out, and rows whose text retention removed, are not there
to be read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ft_dagster.audit.answers import NearAnswer, NearRecord
from ft_dagster.audit.asked import AskedRecord
from ft_dagster.audit.desk import Audit
from ft_dagster.audit.index import Indexed
from ft_dagster.audit.members import BASE_TEXT, CORPUS, DATASET
from ft_dagster.audit.models import documents
from ft_dagster.audit.records import record
from ft_dagster.data.dataset_io import read_split
from ft_dagster.data.dedup import word_grams
from ft_dagster.data.rows import Row
from ft_dagster.errors import UserError

MOST = 50  # near records that are told, the nearest
AT_ONCE = 5_000  # rows between two words of progress
TEXTS = (DATASET, CORPUS, BASE_TEXT)


def near_records(
    audit: Audit, asked: AskedRecord, threshold: float, say: Callable[[str], None] = lambda line: None
) -> NearAnswer:
    """Records other than the asked one whose Jaccard similarity to it, of the sets of their runs of words
    (`data.dedup`), is at least `threshold`; the nearest first. Takes some 30 µs a row of 50 words.

    Raises UserError for a record that is given by its identity, which has no words.
    """
    if not asked.words:
        problem = "without its words nothing tells what is near it"
        raise UserError(problem, field="--near", fix="Give its text, or the row as JSON")
    wanted, began = word_grams(asked.words), time.monotonic()
    holders, removed = _holders(audit)
    total = sum(each.records for each in holders)
    found: dict[bytes, float] = {}
    read = 0
    for row in (row for each in holders for row in _rows(audit, each)):
        read += 1
        grams = word_grams(row.words)
        similarity = len(wanted & grams) / len(wanted | grams)
        if similarity >= threshold and row.identity not in asked.identities:
            found[row.identity] = similarity
        if not read % AT_ONCE:
            left = (time.monotonic() - began) / read * (total - read)
            say(f"{read:,} of {total:,} rows, some {max(left, 0):.0f} s left")
    nearest = sorted(found.items(), key=lambda each: (-each[1], each[0]))
    told = tuple(_told(audit, *each) for each in nearest[:MOST])
    return NearAnswer(threshold, told, len(found), read, len(holders), removed, time.monotonic() - began)


def _holders(audit: Audit) -> tuple[list[Indexed], int]:
    """Data sets and corpora of different payloads, and how many have no text any more."""
    known = [each for stage in TEXTS for each in audit.allowed(audit.index.of_stage(stage))]
    different = {each.digest: each for each in known}.values()
    there = [each for each in different if _files(audit, each)]
    return there, len(different) - len(there)


def _files(audit: Audit, holder: Indexed) -> list[Path]:
    """Those of a data set's splits, of a corpus' parts; none where retention removed them."""
    artifact = audit.artifact(holder)
    names = (n for n in artifact.files if n.startswith("payload/") and n.endswith(".parquet"))
    files = [audit.shelf.left(artifact, name) for name in names]
    return [file for file in files if file is not None]


def _rows(audit: Audit, holder: Indexed) -> Iterator[Row]:
    for file in _files(audit, holder):
        yield from read_split(file) if holder.place.stage == DATASET else documents(file)


def _told(audit: Audit, identity: bytes, similarity: float) -> NearRecord:
    answer = record(audit, AskedRecord((identity,), "near"))
    return NearRecord(identity.hex(), similarity, answer.found, answer.models)
