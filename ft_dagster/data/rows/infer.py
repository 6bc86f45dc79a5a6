"""Infers from the first rows of a source how they are read, what is taught by them, and how it is scored."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from ft_dagster.data.rows.rows import TOOLS, Row, upto_trained
from ft_dagster.data.rows.rows_read import READ
from ft_dagster.data.rows.sources import read_raw, read_rows
from ft_dagster.data.rows.split_look import SplitLook
from ft_dagster.data.sources.formats import BESIDE, COLUMNS, LEARNED
from ft_dagster.data.sources.locations import DeclaredAt, is_hub, is_s3
from ft_dagster.data.sources.readers import columns_of
from ft_dagster.data.sources.turns import as_json
from ft_dagster.data.sources.upstream import is_asset
from ft_dagster.errors import UserError
from ft_dagster.objectives import DEFAULT, RowKind
from ft_dagster.spec.data import SourceSpec

Scored = Literal["text", "label", "json", "tool_calls"]
# Names of columns, in small letters: the first that a file has is taken.
QUESTIONS = (
    *("question", "query", "instruction", "prompt", "input", "request", "user", "letter", "message"),
    *("ticket", "email", "sentence", "utterance", "review", "document", "article", "text", "content"),
    *("body", "title"),
)
TEXTS = ("text", "content")
FILED = ("id", "uuid", "index", "nr", "date", "source", "licence", "license", "group", "weight", "split")
NUMBERED = ("id", "uuid", "no", "nr", "number")  # the last word of a column's name
MOST_LABELS, LONGEST_LABEL, ROWS_A_LABEL = 50, 60, 5


@dataclass(frozen=True)
class InferredRows:
    """Holds what the first READ rows of a source say. `fields`: for the declaration, empty where the columns
    have our names. `unread`: columns that nothing reads. `positions`: where each different row falls, see
    `splits`. `more`: there are more rows than were read.
    """

    fields: dict[str, str]
    unread: tuple[str, ...]
    kind: RowKind
    objective: str
    scored: Scored
    why: str
    longest_answer: int  # bytes of UTF-8
    positions: tuple[float, ...]
    more: bool

    @property
    def rows(self) -> int:
        return len(self.positions)


HEADED = (".csv", ".tsv", ".csv.gz", ".tsv.gz")  # files whose first line names the columns
LOOKED_AT, LONGEST_HEAD, WORDS = 50, 60, 4  # rows; characters of a name; words of a sentence


def why_no_names(path: str, here: Path) -> str | None:
    """Say why the first line of a table looks like a row and not like the names of its columns; None where it
    does not. Raises UserError as `read_raw`.
    """
    rows = list(islice(read_raw(SourceSpec(path=path), here, DeclaredAt(field="--data")), LOOKED_AT))
    names = [str(name).strip() for name in rows[0].fields]
    if not rows[0].file.lower().endswith(HEADED) or names == [str(at) for at in range(len(names))]:
        return None
    for at, name in enumerate(names, 1):
        values = [str(list(row.fields.values())[at - 1]).strip() for row in rows]
        why = _why_no_name(name, values)
        if why is not None:
            return f"its first line looks like a row, not like names of columns: in column {at} it has {why}"
    return None


def _why_no_name(name: str, values: Sequence[str]) -> str | None:
    if re.fullmatch(r"[-+]?[\d.,]*\d%?", name):
        return "a number"
    if name.startswith(("{", "[")):
        return "JSON"
    if len(name) > LONGEST_HEAD:
        return f"a text of {len(name):,} characters"
    if name and name in values:
        return "what other rows have too"
    ends = [each[-1] if len(each.split()) >= WORDS else "" for each in (name, *values)]
    if ends[0] in (".", "?", "!") and 2 * ends.count(ends[0]) > len(ends):
        return "a sentence, as the rows below have"
    return None


def first_columns(path: str, here: Path) -> tuple[str, ...]:
    """Return the columns of the first row. Raises UserError as `read_raw`."""
    first = next(read_raw(SourceSpec(path=path), here, DeclaredAt(field="--data")))
    return tuple(map(str, first.fields))


def infer_fields(columns: Sequence[str]) -> dict[str, str] | None:
    """Return which columns are the question and the answer, as `fields` of a source: by their names, or of
    two columns by their order. Empty where the names are ours already; None where it cannot be told. Capitals
    do not matter.
    """
    lower = {column.strip().lower(): column for column in reversed(columns)}
    named = lower | {column: column for column in columns}
    for form, names in COLUMNS.items():
        if form != "text" and named.keys() >= set(names):
            return _unlike({ours: named[ours] for ours in (*names, *BESIDE.get(form, ())) if ours in named})
    question = next((named[name] for name in QUESTIONS if name in named), None)
    answer = next((named[name] for name in LEARNED if name in named), None)
    plain = [column for column in columns if not _is_filing(column)]
    if len(plain) == 2 and (question is None or answer is None) and not set(TEXTS) & named.keys():
        first, second = plain
        answer = answer or (first if question == second else second)
        question = second if answer == first else first
    if question is None or answer is None:
        text = next((named[name] for name in TEXTS if name in named), None)
        return None if text is None else {} if text in TEXTS else {"text": text}
    return mapped(columns, question, answer)


def _is_filing(column: str) -> bool:
    """Say whether a column names or files a row, by its name: `id`, `ticket_no`."""
    *_, last = re.split(r"[\s_.-]+", column.strip().lower())
    return column.strip().lower() in FILED or last in NUMBERED


def mapped(columns: Sequence[str], question: str, answer: str) -> dict[str, str]:
    """Return the `fields` that make a conversation of two columns, and of those that are read beside them."""
    others = {name.strip().lower(): name for name in columns if name not in (question, answer)}
    beside = {ours: others[ours] for ours in BESIDE["alpaca"] if ours in others}
    return {"instruction": question, **beside, "output": answer}


def question_and_answer(fields: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the columns that `fields` makes the question and the answer."""
    question, answer = fields.get("instruction"), fields.get("output")
    return question or fields.get("prompt"), answer or fields.get("completion")


def _unlike(fields: dict[str, str]) -> dict[str, str]:
    return {} if all(ours == theirs for ours, theirs in fields.items()) else fields


def named_fields(
    columns: Sequence[str], question: str | None = None, answer: str | None = None, text: str | None = None
) -> dict[str, str]:
    """Return `fields` by the columns that are named, the others by their usual names. Raises UserError."""
    if text is not None:
        return {"text": text}
    inferred = infer_fields(columns)
    usual = question_and_answer(inferred or {})
    asked, answered = question or usual[0], answer or usual[1]
    if inferred is not None and (asked, answered) == usual:
        return inferred
    if asked and asked == answered:
        fix = "Name a column of its own for each"
        raise UserError("question and answer are the same column", field="--answer", value=answered, fix=fix)
    if asked and answered:
        return mapped(columns, asked, answered)
    raise unknown_columns(columns)


def rows_of(
    data: str,
    here: Path,
    fields: Callable[[tuple[str, ...]], dict[str, str]] = named_fields,
    are_names: Callable[[str], bool] = lambda _: False,
) -> InferredRows | None:
    """Infer from rows that lie here, under the `fields` of their columns; rows of elsewhere, which may ask a
    network, are not read. `are_names`: asked, by what speaks against it, whether the first line names the
    columns. Raises UserError.
    """
    if is_s3(data) or is_asset(data) or is_hub(SourceSpec(path=data), here):
        return None
    why = why_no_names(data, here)
    if why is not None and not are_names(why):
        fix = (
            "Put a line of names above it, such as question,answer; where these are names all the same, "
            "say which by --question and --answer, or --text"
        )
        raise UserError(why, field="--data", value=data, fix=fix)
    return infer_rows(data, here, fields(first_columns(data, here)))


def infer_rows(path: str, here: Path, fields: Mapping[str, str]) -> InferredRows:
    """Read the first rows under `fields`. Raises UserError for the first that a run would refuse."""
    return infer_sources([SourceSpec(path=path, fields=dict(fields))], here, DeclaredAt(field="--data"))


def infer_sources(sources: Sequence[SourceSpec], here: Path, asked: DeclaredAt) -> InferredRows:
    """Read the first rows of one or more sources, one after the other; columns are those of the first. Raises
    UserError for the first row that a run would refuse.
    """
    formats: dict[str, str] = {}
    look = SplitLook()
    answers, longest, number, calling = list[str](), 0, 0, 0
    kind: RowKind = "text"
    every = (row for source in sources for row in read_rows(source, here, asked, formats))
    for number, row in enumerate(islice(every, READ + 1), 1):
        if number > READ:
            break
        kind = row.kind
        look.add(row)
        answers.append(answer_of(row))
        calling += bool(calls_of(row))
        longest = max(longest, len(answers[-1].encode()))
    objective, scored, why = _taught(kind, answers, calling)
    path, fields = sources[0].path, sources[0].fields
    columns, form = first_columns(path, here), formats[path]
    read = {*COLUMNS[form], *BESIDE.get(form, ()), "group", "licence", "license"} - fields.keys()
    if kind == "messages":
        read.add(TOOLS)
    if kind == "text" and "text" not in (*columns, *fields):
        read.add("content")
    unread = tuple(name for name in columns if name not in (*read, *fields.values()))
    more = number > READ
    return InferredRows(dict(fields), unread, kind, objective, scored, why, longest, look.positions(), more)


def unknown_columns(columns: Sequence[str]) -> UserError:
    """Return the error where nobody said which column is the question."""
    return UserError(
        f"nothing tells which column is the question and which the answer: {columns_of(columns)}",
        field="--data",
        fix="Name them: --question COLUMN --answer COLUMN, or --text COLUMN for raw text",
    )


def answer_of(row: Row) -> str:
    """Return what a row teaches to say, its calls of tools as JSON; of raw text all of it."""
    taught = upto_trained(row)
    return taught.parts[-1][1] + calls_of(row)


def calls_of(row: Row) -> str:
    """Return the calls of tools in the answer that a row teaches, as JSON; "" where it calls none."""
    answer = upto_trained(row).messages[-1:]
    calls = answer[0].said.get("tool_calls") if answer else None
    return as_json(calls) if calls else ""


def _taught(kind: RowKind, answers: Sequence[str], calling: int) -> tuple[str, Scored, str]:
    """Return the objective, how an answer is scored, and why. `calling`: how many answers call tools."""
    labels = {answer.strip() for answer in answers}
    if kind == "text":
        return DEFAULT, "text", "raw text: all of it is learned, and judged by its loss"
    if 2 * calling >= len(answers) > 0:
        said = f"{calling:,} of {len(answers):,} answers call tools: right or wrong by their calls"
        return DEFAULT, "tool_calls", said
    if len(labels) == 1 < len(answers):
        return DEFAULT, "text", "all answers are the same, so that there is nothing to tell apart"
    if all(map(_is_object, answers)):
        return "task_specific", "json", "each answer is a JSON object, scored field by field"
    most = min(MOST_LABELS, len(answers) // ROWS_A_LABEL)
    if 2 <= len(labels) <= most and max(map(len, labels)) <= LONGEST_LABEL:
        said = f"the answers are {len(labels)} labels: one is right or wrong"
        return "task_specific", "label", said
    return DEFAULT, "text", "the answers are free text, judged by their loss"


def _is_object(answer: str) -> bool:
    try:
        return isinstance(json.loads(answer), dict)
    except (ValueError, RecursionError):
        return False
