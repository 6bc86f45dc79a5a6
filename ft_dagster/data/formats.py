"""The row formats people have (chat, sharegpt, alpaca, prompt_completion, text): detect, check, convert.

Alpaca and sharegpt become messages. A malformed row raises UserError with its file and line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from ft_dagster.data.readers import RawRow

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "observation": "tool",
    **{role: role for role in ROLES},
}
# What a message may carry that would change its meaning and that nothing here can render yet.
UNRENDERED = ("tool_calls", "function_call", "weight")
COLUMNS = {
    "chat": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text",),
}
KNOWN = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in COLUMNS.items())


class Content(NamedTuple):
    """A row's content in one of the three kinds; messages are (role, content) pairs."""

    kind: Literal["messages", "prompt_completion", "text"]
    messages: tuple[tuple[str, str], ...] = ()
    prompt: str = ""
    completion: str = ""
    text: str = ""


def detect_format(raw: RawRow, fields: dict[str, Any], field: str) -> str:
    """The format that a row's columns say; `fields` are the row's, renamed."""
    _refuse_preferences(raw, fields)
    for name, columns in COLUMNS.items():
        if all(column in fields for column in columns):
            return name
    if "content" in fields:
        return "text"
    has = ", ".join(map(str, fields)) or "nothing"
    fix = f"The row has: {has}. Rename its columns with `fields`, to one of: {KNOWN}"
    raise raw.error("the row's format is not known", fix, field=f"{field}.format")


def parse_row(raw: RawRow, fields: dict[str, Any], format: str, system: str | None, field: str) -> Content:
    """Check a row of `format` and convert it; `system` goes before a conversation without one of its own."""
    _refuse_preferences(raw, fields)
    missing = [column for column in COLUMNS[format] if fields.get(column) is None]
    if missing and not (format == "text" and "content" in fields):
        has = ", ".join(str(name) for name in fields) or "nothing"
        what = (
            "a row without a completion" if missing[-1] in ("completion", "output") else "a column is missing"
        )
        raise raw.error(what, f"A row of format {format} needs it; it has: {has}", field=missing[-1])
    content = PARSERS[format](raw, fields)
    if content.kind == "messages":
        messages = content.messages
        if system and messages[0][0] != "system":
            messages = (("system", system), *messages)
        return content._replace(messages=_checked(raw, messages))
    if system:
        fix = (
            "A system message needs a conversation: use format alpaca "
            "with fields {instruction: ..., output: ...}, or chat"
        )
        raise raw.error(f"rows of format {format} have none", fix, field=f"{field}.system")
    return content


def _refuse_preferences(raw: RawRow, fields: dict[str, Any]) -> None:
    if "chosen" in fields and "rejected" in fields:
        raise raw.error("preference rows are not built yet", "Keep the chosen answer as `completion`")


def _chat(raw: RawRow, fields: dict[str, Any]) -> Content:
    return Content("messages", _messages(raw, fields["messages"], "messages", ("role", "content"), {}))


def _sharegpt(raw: RawRow, fields: dict[str, Any]) -> Content:
    turns = fields["conversations"]
    first = turns[0] if isinstance(turns, list) and turns and isinstance(turns[0], dict) else {}
    keys = ("from", "value") if "from" in first else ("role", "content")
    messages = _messages(raw, turns, "conversations", keys, SHAREGPT_ROLES)
    return Content("messages", _with_system(raw, fields, messages))


def _alpaca(raw: RawRow, fields: dict[str, Any]) -> Content:
    instruction = _text(raw, fields["instruction"], "instruction")
    extra = _text(raw, fields.get("input") or "", "input")
    asked = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    messages = (("user", asked), ("assistant", _text(raw, fields["output"], "output")))
    return Content("messages", _with_system(raw, fields, messages))


def _prompt_completion(raw: RawRow, fields: dict[str, Any]) -> Content:
    prompt, completion = fields["prompt"], fields["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        keys = ("role", "content")
        before = _messages(raw, prompt, "prompt", keys, {})
        return Content("messages", before + _messages(raw, completion, "completion", keys, {}))
    prompt, completion = _text(raw, prompt, "prompt"), _text(raw, completion, "completion")
    if not completion.strip():
        raise _no_answer(raw, "completion")
    return Content("prompt_completion", prompt=prompt, completion=completion)


def _plain_text(raw: RawRow, fields: dict[str, Any]) -> Content:
    column = "text" if fields.get("text") is not None else "content"
    text = _text(raw, fields[column], column)
    if not text.strip():
        raise raw.error("a row without text", "Remove the row", field=column)
    return Content("text", text=text)


PARSERS: dict[str, Callable[[RawRow, dict[str, Any]], Content]] = {
    "chat": _chat,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "text": _plain_text,
}


def _messages(
    raw: RawRow, turns: Any, column: str, keys: tuple[str, str], roles: dict[str, str]
) -> tuple[tuple[str, str], ...]:
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        fix = f"A list of {{{keys[0]}, {keys[1]}}} objects is needed, at least one"
        raise raw.error("malformed row: not a list of messages", fix, field=column, value=turns)
    messages = []
    for i, turn in enumerate(turns):
        where = f"{column}[{i}]"
        for name in UNRENDERED:
            if turn.get(name) not in (None, [], 1):
                raise raw.error("not built yet", "Remove it from the message", field=f"{where}.{name}")
        role = _role(raw, turn.get(keys[0]), f"{where}.{keys[0]}", roles)
        messages.append((role, _text(raw, turn.get(keys[1]), f"{where}.{keys[1]}")))
    return tuple(messages)


def _role(raw: RawRow, role: Any, where: str, roles: dict[str, str]) -> str:
    known = list(roles) or list(ROLES)
    if not isinstance(role, str) or role not in known:
        shown = "nothing" if role is None else role
        raise raw.error("unknown role", f"Known are {', '.join(known)}", field=where, value=shown)
    return roles.get(role, role)


def _text(raw: RawRow, value: Any, where: str) -> str:
    """A string, or a list of text parts joined; anything else is malformed."""
    if isinstance(value, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in value):
        value = "".join(str(part.get("text", "")) for part in value)
    if not isinstance(value, str):
        shown = "null" if value is None else value
        raise raw.error("malformed row: not text", "Put a string there", field=where, value=shown)
    return value


def _with_system(
    raw: RawRow, fields: dict[str, Any], messages: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str], ...]:
    """Alpaca and sharegpt may carry the system message in a column of its own."""
    system = _text(raw, fields.get("system") or "", "system")
    return (("system", system), *messages) if system.strip() else messages


def _checked(raw: RawRow, messages: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    role, answer = messages[-1]
    if role != "assistant":
        fix = "End each conversation with the answer to learn"
        raise raw.error("the last message is not the assistant's", fix, field="messages", value=role)
    if not answer.strip():
        raise _no_answer(raw, "messages")
    if not any(role == "user" for role, _ in messages):
        raise raw.error("a conversation without a user turn", "Put the question before it", field="messages")
    return messages


def _no_answer(raw: RawRow, field: str) -> Exception:
    return raw.error(
        "a row without a completion: the answer is empty", "Fill it in, or remove it", field=field
    )
