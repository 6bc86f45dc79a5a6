"""Finds the questions that models were judged with, as records: rows, texts, benchmarks, probes and canaries.

An evaluation keeps of each question an id with the first half of its content's identity, and of most what the
model was asked. So a row or a text is found by its identity, a document that was asked in pieces by that of
all of it; a question of a benchmark, which stands within its task's template, by the words of a line of what
was asked, the label before it (`Question:`) left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ft_dagster.audit.index.artifact_records import CANARY, PROBE, QUESTION, STATES, StoredFiles
from ft_dagster.data.files.parquet import column_names, dicts_of
from ft_dagster.data.rows.content import ID_LENGTH, identity_of, normal_text, words_of
from ft_dagster.gate.samples import ANSWERS, CANARIES, FORMER, MEMBERS, ROWS, SAMPLES
from ft_dagster.store import Artifact

PROBES = {ROWS: PROBE, MEMBERS: PROBE, CANARIES: CANARY}  # by the task that asks them
PROBING = ("regurgitation", "membership")  # roles
IN_TEMPLATES = ("task", "general", "general_prompts")  # roles whose questions are found by their lines
LEAST = 3  # words of a line that is a question
NAME = ID_LENGTH // 2  # bytes of a question's name
BY_CONTENT = 4  # version of the stage since which ids are of content, and pieces name their document
LABEL = re.compile(r"^\s*\w[\w ]{0,30}:\s+")
_MARKS = re.compile(r"<[^<>\s]{1,30}>")  # of a chat template
_ID = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")
_IDENTITY = re.compile(r"[0-9a-f]{64}")


class JudgedQuestion(NamedTuple):
    """Is a question of an evaluation. `number`: among its questions. `state`: of `artifact_records.STATES`.
    `id`: as the samples have it. `names`: by which it is found, NAME bytes each.
    """

    number: int
    state: int
    role: str
    task: str
    id: str
    names: tuple[bytes, ...]

    @property
    def facts(self) -> dict[str, str]:
        return {"role": self.role, "task": self.task, "question": self.id}


def judged_questions(stored: StoredFiles, evaluation: Artifact) -> Iterator[JudgedQuestion]:
    """Yield each question once, in the order of the samples; none where retention removed them.

    Raises UserError for damage.
    """
    samples = _left(stored, evaluation, f"payload/{SAMPLES}")
    if samples is None:
        return
    answers = _left(stored, evaluation, f"evidence/{ANSWERS}")
    texts = () if answers is None else dicts_of(answers, "question", "asked")
    asked = {one["question"]: one["asked"] for one in texts}
    columns = ("role", "task", "question", *({"group"} & set(column_names(samples))))
    known: dict[tuple[str, str, str], str] = {}
    for one in dicts_of(samples, *columns):
        known.setdefault((one["role"], one["task"], one["question"]), one.get("group") or "")
    documents = set[str]()  # each is named once, by the first of its pieces
    for number, ((role, task, id), group) in enumerate(known.items()):
        lines = asked.get(id, "") if role in IN_TEMPLATES else ""
        document = group if role == "general_loss" and group not in documents else ""
        documents.add(document)
        named = dict.fromkeys((*_by_identity(id), *_by_document(document), *_by_lines(lines)))
        said = FORMER.get(role, role)
        state = STATES.index(PROBES.get(task, QUESTION) if role in PROBING else QUESTION)
        yield JudgedQuestion(number, state, said, task, id, tuple(named))


def name_of(identity: bytes) -> bytes:
    """Return the name by which a question of this content is found."""
    return identity[:NAME]


def name_of_words(words: Sequence[str]) -> bytes:
    """Return the name by which a question is found that has these words in a line."""
    return name_of(identity_of("words", [("line", " ".join(words))]))


def _by_identity(id: str) -> Iterator[bytes]:
    found = id.rpartition(":")[2]
    if _ID.fullmatch(found):
        yield bytes.fromhex(found)


def _by_document(identity: str) -> Iterator[bytes]:
    if _IDENTITY.fullmatch(identity):
        yield name_of(bytes.fromhex(identity))


def _by_lines(asked: str) -> Iterator[bytes]:
    for line in _MARKS.sub("\n", asked).splitlines():
        for text in (line, LABEL.sub("", line)):
            words = words_of(normal_text(text))
            if len(words) >= LEAST:
                yield name_of_words(words)


def _left(stored: StoredFiles, evaluation: Artifact, name: str) -> Path | None:
    return stored.left(evaluation, name) if stored.has(evaluation, name) else None
