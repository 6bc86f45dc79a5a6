"""Defines a row: what a row of any format becomes, its check, its normal form, its leaf in the record
tree.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar

from ft_dagster.data.rows.content import (
    EXACT,
    NORMALIZATION,
    Part,
    exact_text,
    identity_of,
    json_in,
    loses,
    normal_text,
    unescaped,
    words_of,
)
from ft_dagster.data.sources.formats import moved_columns, parse_row
from ft_dagster.data.sources.readers import RawRow, columns_of, kind_of
from ft_dagster.data.sources.turns import in_order
from ft_dagster.spec.data import SourceSpec
from ft_dagster.strict_json import JsonObject

T = TypeVar("T")
BATCH, BATCH_CHARACTERS = 500, 4_000_000  # rows that are looked at together end at either
TOOLS = "tools"  # a column of a data set's splits where any kept row has tools, else there is none
Kind = Literal["messages", "prompt_completion", "text"]


class Message(NamedTuple):
    """Holds one turn of a conversation: who speaks, the text, and what it says besides.

    `more`: JSON of an object, "" where there is nothing. It may have `tool_calls` (a list of
    {id?, type?, function: {name, arguments}}), `name`, `tool_call_id`, `reasoning_content`, and `train`,
    which is false of a turn that is context.
    """

    role: str
    content: str
    more: str = ""

    def for_template(self) -> JsonObject:
        """Return the turn as a dict, as people write it, without `train`."""
        said = {"role": self.role, "content": self.content}
        if not self.more:
            return said
        return {**said, **{name: value for name, value in self.said.items() if name != "train"}}

    @property
    def said(self) -> JsonObject:
        """Return what the turn says beside role and text."""
        return json.loads(self.more) if self.more else {}

    @property
    def is_trained(self) -> bool:
        """Say whether the turn may be trained on: it does not say that it is context."""
        return not self.more or self.said.get("train", True) is True


class RowPlace(NamedTuple):
    """Says where a row stood: the declared path, the file there, its line (from 1), its number in the source
    (from 0). Evidence: no part of what the row is.
    """

    path: str
    file: str
    line: int
    ordinal: int


@dataclass(frozen=True)
class Row:
    """Is one example. By `kind`, either `messages`, or `prompt` and `completion`, or `text` is filled.

    `source` is the source's place in the declaration, such as data.sources[0]; `path` is what was declared
    there, for people to read, where it is known; `place` is known of a row that was just read. `tools` is
    JSON of the tools that a conversation may call, "" where there are none.
    """

    kind: Kind
    source: str
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    completion: str = ""
    text: str = ""
    licence: str | None = None
    group: str | None = None
    weight: float = 1.0
    path: str = ""
    place: RowPlace | None = None
    tools: str = ""

    @property
    def named(self) -> str:
        """Return the name of the row's source for errors."""
        return self.path or self.source

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """Return (role, text) of all that the row says, in order."""
        if self.kind == "messages":
            return tuple((message.role, message.content) for message in self.messages)
        if self.kind == "prompt_completion":
            return (("prompt", self.prompt), ("completion", self.completion))
        return (("text", self.text),)

    @property
    def tool_list(self) -> list[JsonObject]:
        """Return the tools that the conversation may call. Raises ValueError of a text that is no JSON."""
        return json.loads(self.tools) if self.tools else []

    @property
    def size(self) -> int:
        """Count the characters of all that the row says."""
        more = sum(len(message.more) for message in self.messages)
        return sum(len(text) for _, text in self.parts) + more + len(self.tools)

    @cached_property
    def normal(self) -> tuple[tuple[str, str], ...]:
        """Return the row's parts, each text in normal form."""
        return tuple((role, normal_text(text)) for role, text in self.parts)

    @cached_property
    def likeness(self) -> bytes:
        """Return the sha256 of all that the row says, in normal form: equal for rows that are one to
        duplicates and questions, whatever their source. Where a row says nothing beside its texts, identity
        1.
        """
        return self._identity(normal_text, NORMALIZATION) if self.says_more else self.identity_1

    @cached_property
    def identity_1(self) -> bytes:
        """Return the sha256 of the texts in normal form."""
        return identity_of(self.kind, self.normal)

    @cached_property
    def identity(self) -> bytes:
        """Return what the row is known by as a record: identity 2, the sha256 of all that it says in the
        exact form, where identity 1 loses something of it, else identity 1.
        """
        if not self.says_more and not any(loses(text) for _, text in self.parts):
            return self.identity_1
        return self._identity(exact_text, EXACT)

    @property
    def identities(self) -> tuple[bytes, ...]:
        """Return all that a record tree may know the row by: its identity, and identity 1 where that is
        another, as trees from before identity 2 know it.
        """
        return tuple(dict.fromkeys((self.identity, self.identity_1)))

    @property
    def says_more(self) -> bool:
        """Say whether the row says anything beside its texts."""
        return bool(self.tools) or any(message.more for message in self.messages)

    def _identity(self, form_of: Callable[[str], str], form: int) -> bytes:
        """Return the sha256 of all that the row says, each text of it in this form."""
        turns = self.messages or [Message(*part) for part in self.parts]
        parts: list[Part] = [
            (turn.role, form_of(turn.content), json_in(form_of, in_order(turn.more)))
            if turn.more
            else (turn.role, form_of(turn.content))
            for turn in turns
        ]
        return identity_of(self.kind, parts, json_in(form_of, in_order(self.tools)), form)

    @property
    def given_tools(self) -> Any:
        """Return the tools, as a text where that is no JSON."""
        try:
            return self.tool_list
        except ValueError:
            return self.tools

    @property
    def words(self) -> list[str]:
        """Return all words of the row, in normal form and in order."""
        return words_of("\n".join(text for _, text in self.normal))

    @property
    def other_words(self) -> list[str]:
        """Return the words of what the row says beside its texts: tools, calls, reasoning."""
        more = (self.tools, *(message.more for message in self.messages))
        return words_of(normal_text("\n".join(map(unescaped, more)))) if self.says_more else []

    @cached_property
    def salt(self) -> bytes:
        """Return 16 bytes, the same on every reading: the evidence must be reproducible."""
        assert self.place is not None
        stood = f"{self.place.path}\0{self.place.ordinal}\0".encode()
        return hashlib.sha256(b"ft_dagster salt\0" + stood + self.identity).digest()[:16]

    @property
    def record(self) -> bytes:
        """Return the row's leaf in the record tree: sha256(salt, identity)."""
        return hashlib.sha256(self.salt + self.identity).digest()

    @property
    def first_turn(self) -> str:
        """Return what decides the split, in normal form: the first user turn, the prompt, or the text's first
        1000 characters.
        """
        if self.kind == "text":
            return normal_text(self.text[:1000])
        return next((text for role, text in self.normal if role == "user"), self.normal[0][1])

    @property
    def runs_together(self) -> bool:
        """Say whether a completion as it is goes on the last word of its prompt, nothing between them."""
        ends, begins = self.prompt[-1:], self.completion[:1]
        return self.kind == "prompt_completion" and ends.isalnum() and begins.isalnum()

    @property
    def whole_text(self) -> str:
        """Return all of the row's text, in order."""
        if self.kind == "messages":
            more = (message.more for message in self.messages if message.more)
            return "\n".join((*(message.content for message in self.messages), *more))
        return f"{self.prompt}\n{self.completion}" if self.kind == "prompt_completion" else self.text


def in_exchange(row: Row, exchange: bool) -> Row:
    """Return a prompt and its completion as a question and its answer, for a chat template, where `exchange`
    is set; it stays the same record. Any other row as it is.
    """
    if not exchange or row.kind != "prompt_completion":
        return row
    turns = (Message("user", row.prompt), Message("assistant", row.completion))
    made = replace(row, kind="messages", messages=turns, prompt="", completion="")
    made.__dict__.update(identity=row.identity, identity_1=row.identity_1, likeness=row.likeness)
    return made


def upto_trained(row: Row) -> Row:
    """Return a conversation up to its last answer that is no context: nothing is learned of what follows. It
    stays the same record.
    """
    last = len(row.messages)
    while last and not (row.messages[last - 1].role == "assistant" and row.messages[last - 1].is_trained):
        last -= 1
    if last in (0, len(row.messages)):
        return row
    made = replace(row, messages=row.messages[:last])
    made.__dict__["identity"] = row.identity
    return made


def said_of_seams(run_together: int, prompts: int) -> list[str]:
    """Return a line where so many of the prompts run into their completions as plain text."""
    if not run_together:
        return []
    return [
        f"{run_together:,} of {prompts:,} prompts end in a word that their completion goes on with, nothing "
        "between them: end the prompt, or begin the completion, with a space or a line break"
    ]


def normalize_text(
    raw: RawRow, fields: dict[str, object], source: SourceSpec, format: str, *, ordinal: int, field: str
) -> Row:
    """Make the row of a raw row of `format` (not "auto"), whose `fields` are under our names (see `rename`);
    `ordinal` is its number within the source, from 0.

    `field` is the source's place in the declaration. Raises UserError with the file and line of a malformed
    row.
    """
    content = parse_row(raw, fields, format, source.system, field)
    row = Row(
        kind=content.kind,
        source=field,
        messages=tuple(Message(*turn) for turn in content.messages),
        prompt=content.prompt,
        completion=content.completion,
        text=content.text,
        licence=source.licence or _optional(fields, "licence") or _optional(fields, "license"),
        group=_group(raw, fields.get("group")),
        path=source.path,
        place=RowPlace(source.path, raw.file, raw.line, ordinal),
        tools=content.tools,
    )
    _refuse_surrogates(raw, row)
    return row


def rename(raw: RawRow, names: dict[str, str], field: str) -> dict[str, object]:
    """Return the row's fields under our names; `names` maps ours to theirs. A copy under its own name stays
    where it says nothing else, see `moved_columns`.
    """
    fields = dict(raw.fields)
    for ours, theirs in names.items():
        if theirs not in raw.fields:
            known = [str(name) for name in raw.fields]
            close = difflib.get_close_matches(theirs, known, n=1)
            fix = f"Did you mean {columns_of(close)}?" if close else f"The row has: {columns_of(known)}"
            if ours in raw.fields:
                fix = f"Write the name of this project first: {theirs}: {ours}"
            raise raw.lacks("no such column", fix, field=f"{field}.fields.{ours}", value=theirs)
        fields[ours] = raw.fields[theirs]
    for column in moved_columns(names) if names else ():
        del fields[column]
    return fields


def in_batches(rows: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield rows in batches of bounded memory, however long a row is. `size`: of one, in characters."""
    batch: list[T] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += size(row)
        if len(batch) == BATCH or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _refuse_surrogates(raw: RawRow, row: Row) -> None:
    try:
        for text in (*(text for _, text in row.parts), row.group or "", row.licence or "", row.tools):
            text.encode()
    except UnicodeEncodeError:
        fix = "Remove the lone surrogate (a broken emoji, as a rule)"
        raise raw.error("malformed row: not valid Unicode", fix) from None


def _group(raw: RawRow, value: Any) -> str | None:
    """Return the name of the row's group, a text or a number; none where it is empty. Raises UserError."""
    if isinstance(value, float):  # of a column of numbers in which some are missing
        value = None if math.isnan(value) else int(value) if value.is_integer() else value
    if value is None or value == "":
        return None
    if isinstance(value, bool | float) or not isinstance(value, str | int):
        fix = "Put a text or a whole number there, or leave it out"
        problem = f"malformed row: not the name of a group but {kind_of(value)}"
        raise raw.error(problem, fix, field="group")
    return str(value)


def _optional(fields: dict[str, object], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) and value else None
