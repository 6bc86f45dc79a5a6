"""Rows: what a row of any format becomes, its check, its normalized form, its leaf in the record tree."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from ft_dagster.data.formats import Content, parse_row
from ft_dagster.data.readers import RawRow
from ft_dagster.spec.variant import SourceSpec

Kind = Literal["messages", "prompt_completion", "text"]


class Message(NamedTuple):
    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """One example. By `kind`, either `messages`, or `prompt` and `completion`, or `text` is filled."""

    kind: Kind
    source: str
    messages: tuple[Message, ...] = ()
    prompt: str = ""
    completion: str = ""
    text: str = ""
    licence: str | None = None
    group: str | None = None
    weight: float = 1.0
    salt: str = ""

    @cached_property
    def canonical(self) -> bytes:
        """The normalized content as canonical JSON (RFC 8785; for strings `json` writes it as well)."""
        return _canonical(self.content)

    @property
    def content(self) -> dict[str, Any]:
        if self.kind == "messages":
            return {"messages": [{"role": m.role, "content": m.content} for m in self.messages]}
        if self.kind == "prompt_completion":
            return {"prompt": self.prompt, "completion": self.completion}
        return {"text": self.text}

    @property
    def identity(self) -> bytes:
        """sha256 of the canonical content: equal for equal rows, whatever their source."""
        return hashlib.sha256(self.canonical).digest()

    @property
    def record(self) -> str:
        """The row's leaf: sha256(salt, canonical content), in hex."""
        return hashlib.sha256(bytes.fromhex(self.salt) + self.canonical).hexdigest()

    @property
    def first_turn(self) -> str:
        """What decides the split: the first user turn, the prompt, or the text's first 1000 characters."""
        if self.kind == "messages":
            users = (message.content for message in self.messages if message.role == "user")
            return next(users, self.messages[0].content)
        return self.prompt if self.kind == "prompt_completion" else self.text[:1000]

    @property
    def whole_text(self) -> str:
        """All of the row's words, in order."""
        if self.kind == "messages":
            return "\n".join(message.content for message in self.messages)
        return f"{self.prompt}\n{self.completion}" if self.kind == "prompt_completion" else self.text


def normalize_text(
    raw: RawRow, source: SourceSpec, format: str, ordinal: int, field: str = "data.sources"
) -> Row:
    """The row of a raw row of `format` (not "auto"); `ordinal` is its number within the source, from 0.

    Raises UserError with the file and line of a malformed row.
    """
    fields = rename(raw, source.fields, field)
    content = parse_row(raw, fields, format, source.system, field)
    return Row(
        kind=content.kind,
        source=source.path,
        messages=tuple(Message(role, text) for role, text in content.messages),
        prompt=content.prompt,
        completion=content.completion,
        text=content.text,
        licence=source.licence or _optional(fields, "licence") or _optional(fields, "license"),
        group=_optional(fields, "group"),
        salt=_salt(raw, content, source.path, ordinal),
    )


def rename(raw: RawRow, names: dict[str, str], field: str) -> dict[str, Any]:
    """The row's fields under our names; `names` maps ours to theirs."""
    fields = dict(raw.fields)
    for ours, theirs in names.items():
        if theirs not in raw.fields:
            known = [str(name) for name in raw.fields]
            close = difflib.get_close_matches(theirs, known, n=1)
            fix = f"Did you mean {close[0]}?" if close else f"The row has: {', '.join(known)}"
            raise raw.error("no such column", fix, field=f"{field}.fields.{ours}", value=theirs)
        fields[ours] = raw.fields[theirs]
    return fields


def _salt(raw: RawRow, content: Content, source: str, ordinal: int) -> str:
    """16 bytes in hex, the same on every build: the artifact must be reproducible."""
    given = [
        content.kind,
        list(map(list, content.messages)),
        content.prompt,
        content.completion,
        content.text,
    ]
    try:
        salted = _canonical({"content": given, "source": source, "ordinal": ordinal})
    except UnicodeEncodeError:
        fix = "Remove the lone surrogate (a broken emoji, as a rule)"
        raise raw.error("malformed row: not valid Unicode", fix) from None
    return hashlib.sha256(salted).digest()[:16].hex()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _optional(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return value if isinstance(value, str) and value else None
