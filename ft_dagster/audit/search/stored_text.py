"""Reads all text that a store still has, each distinct file once and streamed: rows, documents, and what
models were asked, were to answer and answered.

Rows that a data set left out have no text in the store; nor has what retention removed, unless an equal file
stands elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ft_dagster.audit.audit import Audit
from ft_dagster.audit.index.artifact_records import STEP_LOG
from ft_dagster.audit.index.follow import MALFORMED, problem_of
from ft_dagster.audit.index.index import Indexed
from ft_dagster.data.files.parquet import column_names, count_of, quoted, rows_of
from ft_dagster.data.mixture.mixture_io import HOLDOUT
from ft_dagster.data.rows.dataset_io import as_row
from ft_dagster.data.rows.rows import TOOLS, Row
from ft_dagster.data.sources.turns import as_json
from ft_dagster.errors import UserError
from ft_dagster.gate.samples import ANSWERS
from ft_dagster.lineage.graph import inputs, walk
from ft_dagster.spec.keys import HALF
from ft_dagster.stage_entries import (
    BASE_TEXT,
    EVALUATION_TEXTS,
    FINE_TUNED_MODEL,
    GENERAL_CORPUS,
    TASK_DATASET,
    TRAINING_MIXTURE,
)
from ft_dagster.store import Artifact
from ft_dagster.store.artifacts import Removed
from ft_dagster.strict_json import loads

ROW, DOCUMENT, PIECE, ITEM, ANSWER = "row", "document", "held-out text", "evaluation text", "answer"
LOOK = "answer while it was trained"  # of a training's look at itself
RECORDS = (ROW, DOCUMENT)  # kinds of which each is a record
TEXTS = (TASK_DATASET.name, GENERAL_CORPUS.name, BASE_TEXT.name)  # stages whose payload is records
# Of each kind the columns that hold text, before those that say what it is.
COLUMNS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    ROW: (("messages", "prompt", "completion", "text", "group", TOOLS), ("kind",)),
    DOCUMENT: (("text",), ()),
    PIECE: (("text",), ("group",)),
    ITEM: (("questions", "answers", "text"), ("task",)),  # 0.1 had a question's text alone
    ANSWER: (("asked", "expected", "answered"), ("role", "task", "question")),
    LOOK: (("answers",), ("step",)),
}
TOLD_EVERY = 0.5  # seconds between two words of progress


@dataclass(frozen=True)
class TextFile:
    """Is a file of an artifact that has text. `size`: in bytes, as it is stored."""

    holder: Indexed
    artifact: Artifact
    name: str
    kind: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Batch:
    """Holds some rows of a file, from its row `first` on, counted from 0. `texts`: of each row, one by one.
    `columns`: as they are stored.
    """

    file: TextFile
    first: int
    texts: Sequence[Sequence[str]]
    columns: Mapping[str, Sequence[Any]]

    def row(self, at: int) -> Row:
        """Return the row of a record."""
        if self.file.kind == ROW:
            return as_row({**_NOTHING, **{name: values[at] for name, values in self.columns.items()}})
        return Row("text", "", text=self.texts[at][0])

    def said(self, at: int) -> dict[str, object]:
        """Return what a row says of itself beside its texts."""
        return {name: self.columns[name][at] for name in COLUMNS[self.file.kind][1] if name in self.columns}


_NOTHING: dict[str, object] = {
    **dict.fromkeys(("messages", "prompt", "completion", "text", "licence", "group")),
    "source": "",
    "weight": 1.0,
}


@dataclass
class TextFiles:
    """Lists the files that have text. `files`: each distinct one once. `datasets`: data sets, also those that
    retention removed. `removed`: how many artifacts of a stage have text that retention removed, and nothing
    equal stands. `unread`: takes what could not be read, and why, also while the files are read.
    """

    files: list[TextFile] = field(default_factory=list)
    datasets: list[Indexed] = field(default_factory=list)
    removed: dict[str, int] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def holders(self) -> int:
        """Count the different data sets, corpora and texts of bases that they are of."""
        return len({file.artifact.digest for file in self.files if file.kind in RECORDS})


def text_files(audit: Audit, kinds: Sequence[str] = tuple(COLUMNS), within: str | None = None) -> TextFiles:
    """List the files of which the auditor may be told. `within`: a tenant or a variant, with what is shared
    that its own was made of. Raises UserError for one that is neither.
    """
    found, standing = TextFiles(), dict[str, TextFile]()
    gone: list[tuple[Indexed, set[str]]] = []
    for each in _within(audit, within):
        try:
            said = audit.said(each)
        except UserError as error:
            found.unread.append(str(error))
            continue
        artifact = said.artifact if isinstance(said, Removed) else said
        found.datasets += [each] if each.place.stage == TASK_DATASET.name else []
        files = [file for file in _files_of(each, artifact) if file.kind in kinds]
        if isinstance(said, Removed):
            gone.append((each, {file.sha256 for file in files}))
        else:
            standing.update((file.sha256, file) for file in files)
    found.files = list(standing.values())
    lost = {(each.place.stage, each.digest) for each, hashes in gone if hashes - standing.keys()}
    for stage, _ in lost:
        found.removed[stage] = found.removed.get(stage, 0) + 1
    return found


def read_texts(
    audit: Audit, found: TextFiles, say: Callable[[str], None] = lambda line: None
) -> Iterator[Batch]:
    """Yield all rows of the files. What cannot be read is put into `found.unread`, and the others are
    read.
    """
    begun = told = time.monotonic()
    done = 0.0
    for file in found.files:
        try:
            path = audit.stored.file(file.artifact, file.name)
            rows = max(1, path.read_bytes().count(b"\n") if file.kind == LOOK else count_of(path))
            for batch in _looks(path, file) if file.kind == LOOK else _batches(path, file):
                yield batch
                share = (done + file.size * (batch.first + len(batch.texts)) / rows) / max(1, found.size)
                if time.monotonic() - told > TOLD_EVERY:
                    told = time.monotonic()
                    left = (told - begun) * (1 - share) / share
                    say(f"{share:.0%} of {found.size / 1e6:,.1f} MB read, some {left:,.0f} s left")
        except MALFORMED as error:
            found.unread.append(problem_of(error, audit.store.uri(file.artifact.path)))
        done += file.size


def _looks(path: Path, file: TextFile) -> Iterator[Batch]:
    """Yield what a model answered at the looks of its training, of which its log has a line each."""
    lines = [loads(line) for line in path.read_text("utf-8").splitlines()]
    answers = [line.get("degeneration", {}).get("answers", ()) for line in lines]
    columns = {"answers": answers, "step": [line["step"] for line in lines]}
    yield Batch(file, 0, list(map(_flat, ((each,) for each in answers))), columns)


def _batches(path: Path, file: TextFile) -> Iterator[Batch]:
    there, first = set(column_names(path)), 0
    texts, said = ([name for name in names if name in there] for names in COLUMNS[file.kind])
    for rows in rows_of(path, *map(quoted, (*texts, *said))):
        columns = dict(zip((*texts, *said), zip(*rows, strict=True), strict=True))
        yield Batch(file, first, _texts(columns, texts), columns)
        first += len(rows)


def _texts(columns: Mapping[str, Sequence[Any]], names: Sequence[str]) -> list[list[str]]:
    """Return the texts of each row: those of its messages, which are JSON, and those of its other columns.
    What a message says beside its text (calls, reasoning) is one more, as JSON.
    """
    plain = [columns[name] for name in names if name != "messages"]
    others = zip(*plain, strict=True) if plain else ((),) * len(columns["messages"])
    if "messages" not in columns:
        return list(map(_flat, others))
    turns = loads(f"[{','.join([each or 'null' for each in columns['messages']])}]")
    return [
        [*(text for turn in each or () for text in _said(turn)), *_flat(values)]
        for each, values in zip(turns, others, strict=True)
    ]


def _said(turn: Mapping[str, Any]) -> Iterator[str]:
    yield turn["content"]
    more = {name: value for name, value in turn.items() if name not in ("role", "content")}
    if more:
        yield as_json(more)


def _flat(values: Sequence[Any]) -> list[str]:
    """Return the texts among values, and in lists of these."""
    found: list[str] = []
    for value in values:
        if isinstance(value, str):
            found.append(value)
        elif value:
            found += value
    return found


def _within(audit: Audit, within: str | None) -> list[Indexed]:
    every = audit.allowed(audit.index.all())
    if within is None:
        return every
    tenant, dot, variant = within.partition(".")
    if not HALF.fullmatch(tenant) or (dot and not HALF.fullmatch(variant)):
        fix = "Name a tenant, or tenant.variant"
        raise UserError("neither a tenant nor a variant", field="--within", value=within, fix=fix)
    own = [each for each in every if (each.variant if dot else each.tenant) == within]
    if not own:
        fix = "`ft-dagster status` lists those that are"
        raise UserError("nothing of it is stored", field="--within", value=within, fix=fix)
    shared = walk(own, lambda each: [one for one in inputs(audit.index, each) if not one.tenant])
    return [each for each, _ in shared]


def _files_of(holder: Indexed, artifact: Artifact) -> Iterator[TextFile]:
    for name, listed in artifact.files.items():
        kind = _kind_of(holder.place.stage, name)
        if kind is not None:
            yield TextFile(holder, artifact, name, kind, listed.sha256, listed.size)


def _kind_of(stage: str, name: str) -> str | None:
    """Return what a row of a file is; None of one without text of its own."""
    part, _, rest = name.partition("/")
    if stage == FINE_TUNED_MODEL.name:
        return LOOK if name == STEP_LOG else None
    if part == "evidence":  # also of a merged model that was asked by itself
        return ANSWER if rest.rpartition("/")[2] == ANSWERS else None
    if not rest.endswith(".parquet"):
        return None
    if stage == TRAINING_MIXTURE.name:
        return PIECE if rest == f"{HOLDOUT}/texts.parquet" else None
    return {
        TASK_DATASET.name: ROW,
        GENERAL_CORPUS.name: DOCUMENT,
        BASE_TEXT.name: DOCUMENT,
        EVALUATION_TEXTS.name: ITEM,
    }.get(stage)
