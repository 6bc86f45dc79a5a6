"""Scores one written answer against its reference, by the declared kind of task. Pure: no model, no torch.

`text`: exact match and token F1 after SQuAD's normalization. `label`: exact match, and F1 over the labels.
`json`: F1 over the fields. `sql`: whether the query returns what the reference returns. For `tool_calls` see
`call_scores`.
"""

from __future__ import annotations

import json
import re
import sqlite3
import string
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from ft_dagster.data.rows.content import normal_text, words_of
from ft_dagster.errors import UserError
from ft_dagster.files import what_is_there
from ft_dagster.roots import Roots
from ft_dagster.spec.variant import AnswerKind

# The scores of an answer of each kind, the one that it is judged by first; of free text that is its loss.
ANSWER_METRICS: dict[AnswerKind, tuple[str, ...]] = {
    "text": ("exact_match", "token_f1"),
    "label": ("exact_match",),
    "json": ("json_f1", "valid_json"),
    "sql": ("execution_accuracy",),
    "tool_calls": ("calls_right", "calls_valid", "undue_call"),
}
LOWER_IS_BETTER = ("undue_call",)
PARTS = {"calls_right": ("calls_valid", "undue_call")}  # shown beside a metric that is made of them
# A query that needs more is taken for wrong: about a second of SQLite, and what memory may hold.
MOST_STEPS = 50_000_000
MOST_SECONDS = 30.0
MOST_ROWS = 10_000
MOST_BYTES = 16_000_000
HEAP_BYTES = 512_000_000
DIGITS = 12  # of a float that must agree: a sum in another order differs in the last ones
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}
_FORBIDDEN = {"random", "randomblob", "zeroblob"}  # chance, and bytes out of nothing
# What in SQL is not code: strings, quoted names, comments.
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/", re.DOTALL)
_PARENTHESES = re.compile(r"\([^()]*\)")


def exact_match(answer: str, reference: str) -> float:
    """Return 1.0 if both are equal after SQuAD's normalization."""
    return float(_words(answer) == _words(reference))


def token_f1(answer: str, reference: str) -> float:
    """Return SQuAD's F1 over the words that both share (Rajpurkar et al. 2016); two empty texts are equal."""
    given, wanted = _words(answer), _words(reference)
    if not given or not wanted:
        return float(given == wanted)
    return _f1((Counter(given) & Counter(wanted)).total(), len(given), len(wanted))


class LabelScore(NamedTuple):
    """Scores one label: on how many questions it was right to say it, and how well it was told from the
    others.
    """

    label: str
    questions: int
    precision: float
    recall: float
    f1: float


def label_of(text: str) -> str:
    """Return a label as it is compared: without outer space, case, and punctuation at its end."""
    return text.strip().casefold().rstrip(string.punctuation + string.whitespace)


def label_match(answer: str, reference: str) -> float:
    """Return 1.0 if both are the same label."""
    return float(label_of(answer) == label_of(reference))


def label_scores(pairs: Sequence[tuple[str, str]]) -> list[LabelScore]:
    """Score each label that some reference has, in alphabetical order; `pairs`: (answer, reference).

    An answer that is not a label counts as a miss of the right label, and as a wrong guess of no other.
    """
    asked = [(label_of(answer), label_of(reference)) for answer, reference in pairs]
    said, wanted = Counter(a for a, _ in asked), Counter(r for _, r in asked)
    right = Counter(reference for answer, reference in asked if answer == reference)
    return [
        LabelScore(
            label,
            wanted[label],
            right[label] / said[label] if said[label] else 0.0,
            right[label] / wanted[label],
            _f1(right[label], said[label], wanted[label]),
        )
        for label in sorted(wanted)
    ]


def macro_f1(pairs: Sequence[tuple[str, str]]) -> float:
    """Return the plain mean of the labels' F1: a rare label counts as much as a common one."""
    found = label_scores(pairs)
    return sum(score.f1 for score in found) / len(found)


def micro_f1(pairs: Sequence[tuple[str, str]]) -> float:
    """Return the F1 of all questions taken together, over the labels that some reference has."""
    asked = [(label_of(answer), label_of(reference)) for answer, reference in pairs]
    known = {reference for _, reference in asked}
    right = sum(answer == reference for answer, reference in asked)
    return _f1(right, sum(answer in known for answer, _ in asked), len(asked))


def is_right(answer: str, expected: Sequence[str], kind: AnswerKind, database: Path | None = None) -> bool:
    """Say whether an answer says each text that is expected.

    Free text, and an answer that may call tools, says one that stands in it word for word. A label, JSON or a
    query (run on `database`) is right where the evaluation gives it the full score. Raises ValueError for
    what no answer of this kind can say: a text without a word, no JSON, a query that fails, two labels.
    """
    if kind not in ("text", "tool_calls") and len(expected) > 1:
        raise ValueError(f"{len(expected)} texts, and the answer is one")
    said = [_says(answer, text, kind, database) for text in expected]
    return all(said)


def _says(answer: str, expected: str, kind: AnswerKind, database: Path | None) -> bool:
    if kind == "json":
        return json_scores(answer, expected)["json_f1"] == 1
    if database is not None:
        try:
            reference = run_query(database, expected)
        except QueryError as error:
            raise ValueError(f"the query fails: {error}") from None
        return execution_accuracy(answer, reference, database, ordered=is_ordered(expected)) == 1
    from ft_dagster.data.rows.decontaminate import sought_words

    said, wanted = (list(sought_words(words_of(normal_text(text)))) for text in (answer, expected))
    if not wanted:
        raise ValueError("it has no word")
    if kind == "label":
        return label_match(answer, expected) == 1
    return any(said[at : at + len(wanted)] == wanted for at in range(len(said) - len(wanted) + 1))


def parse_json(text: str) -> Any:
    """Return the JSON value of a whole text. Raises ValueError: not JSON (NaN is none), or nested too
    deeply.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def fields_of(value: Any) -> set[tuple[str, str]]:
    """Return (path, value) of each leaf, both as JSON: `{"a": {"b": [1]}}` has `(["a", "b", 0], 1)`.

    An empty object or list is a leaf. 1 and 1.0 are equal, 1, "1" and true are not.
    """
    found: set[tuple[str, str]] = set()
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while waiting:
        path, part = waiting.pop()
        if isinstance(part, dict | list) and part:
            inner = part.items() if isinstance(part, dict) else enumerate(part)
            waiting += [((*path, key), each) for key, each in inner]
            continue
        if isinstance(part, float) and part.is_integer():
            part = int(part)
        found.add((json.dumps(path), json.dumps(part)))
    return found


def json_scores(answer: str, reference: str) -> dict[str, float]:
    """Return `json_f1` over the fields that both have with the same value, and `valid_json`: 0 or 1.

    The answer must be JSON and nothing else, as for the program that reads it. Raises ValueError for the
    reference.
    """
    wanted = fields_of(parse_json(reference))
    try:
        given = fields_of(parse_json(answer))
    except ValueError:
        return {"json_f1": 0.0, "valid_json": 0.0}
    return {"json_f1": _f1(len(given & wanted), len(given), len(wanted)), "valid_json": 1.0}


class QueryError(Exception):
    """Signals a query that did not return: broken, forbidden, or too much; without its words, which are a
    row's.
    """


class QueryResult(NamedTuple):
    """Holds what a query returned: the number of columns, and the rows in order."""

    columns: int
    rows: list[tuple[Any, ...]]


def find_database(path: str, project: Path, declared_in: object = None, roots: Roots | None = None) -> Path:
    """Return the declared SQLite file, counted from the project folder. Raises UserError: absent, or not
    whole, or outside of `roots`.
    """
    file, field = project / path, "evaluation.database"
    if roots is not None:
        roots.check_read(file, file=declared_in, field=field)

    def refuse(problem: str, fix: str) -> UserError:
        return UserError(problem, file=declared_in, field=field, value=path, fix=fix)

    if not file.is_file():
        raise refuse(what_is_there(file, "file"), f"Put the SQLite file at {file}")
    with file.open("rb") as opened:
        if roots is not None:
            roots.check_opened(opened.fileno(), str(file))
        if opened.read(16) != b"SQLite format 3\0":
            raise refuse("not a SQLite file", "Name one; the sqlite3 command makes it from a dump")
    journal = Path(f"{file}-wal")
    if journal.is_file() and journal.stat().st_size:
        raise refuse(
            "part of its content is still in the write-ahead log beside it",
            f"Close what writes to it, or run: sqlite3 {file} 'PRAGMA wal_checkpoint(TRUNCATE)'",
        )
    return file


def run_query(database: Path, query: str) -> QueryResult:
    """Run one SELECT on a SQLite file that nothing can change. Raises QueryError.

    Everything but reading is denied (PRAGMA, ATTACH and recursion too). What is limited are instructions of
    SQLite's machine, memory, rows and bytes, so that a query ends the same way on every host; half a minute
    is the limit for one whose every instruction is slow.
    """
    # immutable: SQLite makes no files beside a file that nobody writes to.
    address = f"file:{quote(str(database.resolve()))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
            _restrict(connection)
            cursor = connection.execute(query)
            if cursor.description is None:
                raise QueryError("it returns no table")
            return QueryResult(len(cursor.description), list(_within_limits(cursor)))
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        said = "syntax error" if "syntax error" in str(error) else str(error).partition(":")[0]
        raise QueryError(said) from None
    except MemoryError:
        raise QueryError("it needs too much memory") from None


def same_result(answer: QueryResult, reference: QueryResult, *, ordered: bool) -> bool:
    """Say whether both have as many columns and the same rows, each as often, and in the same order if
    `ordered`.

    Names of columns do not matter. Floats are compared to 12 digits; 1 and 1.0 are equal.
    """
    if answer.columns != reference.columns or len(answer.rows) != len(reference.rows):
        return False
    given, wanted = ([tuple(map(_rounded, row)) for row in result.rows] for result in (answer, reference))
    return given == wanted if ordered else Counter(given) == Counter(wanted)


def is_ordered(query: str) -> bool:
    """Say whether the query as a whole has an ORDER BY; one of a subquery or a window does not count."""
    bare, count = _QUOTED.sub(" ", query), 1
    while count:
        bare, count = _PARENTHESES.subn(" ", bare)
    return re.search(r"\border\s+by\b", bare, re.IGNORECASE) is not None


def execution_accuracy(answer: str, reference: QueryResult, database: Path, *, ordered: bool) -> float:
    """Return 1.0 if the query `answer` returns what the reference query returned; a broken or forbidden one
    is 0.
    """
    try:
        return float(same_result(run_query(database, answer), reference, ordered=ordered))
    except QueryError:
        return 0.0


def _restrict(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only = 1")
    connection.execute("PRAGMA temp_store = 2")  # memory, which is limited
    connection.execute(f"PRAGMA hard_heap_limit = {HEAP_BYTES}")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 200)
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    every, started = 10_000, time.monotonic()
    ticks = iter(range(MOST_STEPS // every))
    connection.set_progress_handler(
        lambda: next(ticks, None) is None or time.monotonic() - started > MOST_SECONDS, every
    )
    connection.set_authorizer(_authorize)


def _authorize(
    action: int, first: str | None, second: str | None, database: str | None, trigger: str | None
) -> int:
    forbidden = action == sqlite3.SQLITE_FUNCTION and second in _FORBIDDEN
    return sqlite3.SQLITE_OK if action in _ALLOWED and not forbidden else sqlite3.SQLITE_DENY


def _within_limits(cursor: sqlite3.Cursor) -> Iterator[tuple[Any, ...]]:
    size = 0
    for number, row in enumerate(cursor):
        size += sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in row)
        if number >= MOST_ROWS or size > MOST_BYTES:
            raise QueryError(f"it returns more than {MOST_ROWS:,} rows or {MOST_BYTES / 1e6:.0f} MB")
        yield row


def _rounded(cell: Any) -> Any:
    return float(f"{cell:.{DIGITS}g}") if isinstance(cell, float) else cell


def _f1(shared: int, given: int, wanted: int) -> float:
    return 2 * shared / (given + wanted) if given + wanted else 0.0


def _words(text: str) -> list[str]:
    """Return lower-case words, without punctuation and English articles."""
    bare = "".join(char for char in text.lower() if char not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()
