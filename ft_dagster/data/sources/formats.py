"""Detects, checks and converts the row formats people have (chat, sharegpt, alpaca, prompt_completion, text).

Alpaca and sharegpt become messages. A malformed row raises UserError with its file and line, and so does one
that says something which nothing here renders. Columns whose names nothing here knows have no meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from ft_dagster.data.sources.readers import RawRow, columns_of, kind_of
from ft_dagster.data.sources.turns import KEPT, TRAINED, more_of, says_nothing, tools_of
from ft_dagster.errors import UserError

ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "observation": "tool",
    **{role: role for role in ROLES},
}
# What is read of a message in each form, and of a part of its text.
READ = ("role", "content")
READ_OF_SHAREGPT = ("from", "value")
READ_OF_A_PART = ("type", "text")
# What only files a message away; any other field that says something is refused.
FILED = (
    *("id", "message_id", "parent_id", "index", "timestamp", "created_at", "date"),
    *("model", "language", "source", "metadata", "cache_control"),
)
# Columns beside a row's own that would change what it says.
UNRENDERED = (
    *("functions", "tool_calls", "history", "reasoning_content", "thinking"),
    *("chat_template_kwargs", "images", "videos", "audios"),
)
LEFT_OUT = ("label", "train", "trainable")  # columns that say by `false` that a row is none to learn from
# Names of columns, in small letters, that are answers: `init` takes the first that a file has, and beside a
# text one is not dropped without a word.
LEARNED = (
    *("answer", "response", "completion", "output", "reply", "assistant", "label", "category", "class"),
    *("target", "intent", "sentiment", "topic", "summary", "translation", "sql"),
)
COLUMNS = {
    "chat": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text",),
}
BESIDE = {"alpaca": ("input", "system"), "sharegpt": ("system",)}  # columns read where a row has them
TURNS = {column for form in BESIDE for column in (*COLUMNS[form], *BESIDE[form])}
Turns = tuple[tuple[str, str, str], ...]  # role, text, and what else the turn says, as `more_of` writes it
CONVERSATIONS = frozenset(("chat", "sharegpt", "alpaca"))  # formats whose rows are all messages
KNOWN = "; ".join(f"{name}: {', '.join(columns)}" for name, columns in COLUMNS.items())


class Content(NamedTuple):
    """Holds a row's content in one of the three kinds. `tools`: JSON, of messages alone."""

    kind: Literal["messages", "prompt_completion", "text"]
    messages: Turns = ()
    tools: str = ""
    prompt: str = ""
    completion: str = ""
    text: str = ""


def detect_format(raw: RawRow, fields: dict[str, object], field: str) -> str:
    """Return the format that a row's columns say; `fields` are the row's, renamed."""
    _refuse_preferences(raw, fields)
    for name, columns in COLUMNS.items():
        if all(column in fields for column in columns):
            return name
    if "content" in fields:
        return "text"
    fix = f"The row has: {columns_of(fields)}. Rename its columns with `fields`, to one of: {KNOWN}"
    if (inside := _field_of_rows(fields)) is not None:
        fix = f"Its rows stand inside the field {columns_of([inside])}: write that list alone into the file"
    raise raw.lacks("the row's format is not known", fix, field=f"{field}.format")


def _field_of_rows(fields: dict[str, object]) -> str | None:
    """Return the field that has all rows of a file inside; None of a row that says something itself."""
    inside = [name for name, value in fields.items() if _are_rows(value)]
    says = any(isinstance(value, str) for name, value in fields.items() if name != "version")
    return inside[0] if len(inside) == 1 and not says else None


def _are_rows(value: object) -> bool:
    """Say whether a cell is a list of rows, and no conversation."""
    turns = {READ[0], READ_OF_SHAREGPT[0]}
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(each, dict) and each and not turns & each.keys() for each in value)


def parse_row(raw: RawRow, fields: dict[str, object], format: str, system: str | None, field: str) -> Content:
    """Check a row of `format` and convert it; `system` goes before a conversation without one of its own."""
    _refuse_preferences(raw, fields)
    missing = [column for column in COLUMNS[format] if fields.get(column) is None]
    if missing and not (format == "text" and "content" in fields):
        what = (
            "a row without a completion" if missing[-1] in ("completion", "output") else "a column is missing"
        )
        fix = f"A row of format {format} needs it; it has: {columns_of(fields)}"
        raised = raw.error if missing[-1] in fields else raw.lacks
        raise raised(what, fix, field=missing[-1])
    content = PARSERS[format](raw, fields)
    if content.kind == "messages":
        messages = content.messages
        if system and messages[0][0] != "system":
            messages = (("system", system, ""), *messages)
        tools = tools_of(raw, fields.get("tools"), "tools")
        return content._replace(messages=_checked(raw, messages), tools=tools)
    if not says_nothing(fields.get("tools")) and format != "text":
        raise _unrendered(
            raw, "tools", "Write prompt and completion as lists of messages, which may call tools"
        )
    if system:
        fix = (
            "A system message needs a conversation: use format alpaca "
            "with fields {instruction: ..., output: ...}, or chat"
        )
        raise raw.error(f"rows of format {format} have none", fix, field=f"{field}.system")
    return content


def moved_columns(names: Mapping[str, str]) -> set[str]:
    """Return the columns that `names`, ours to theirs, makes a turn and that would say something else
    under their own name, too.
    """
    alone = {*BESIDE["alpaca"], *UNRENDERED, *LEFT_OUT, "weight"}
    return {theirs for ours, theirs in names.items() if ours in TURNS and theirs in alone} - names.keys()


def refuse_unlearned(raw: RawRow, fields: Mapping[str, object], field: str) -> None:
    """Raise UserError for an answer beside a text, of which nothing says which of them is learned."""
    text = COLUMNS["text"][0] if "text" in fields else "content"
    for name, value in fields.items():
        if str(name).strip().lower() in LEARNED and not says_nothing(value):
            fix = (
                f"Declare fields: {{instruction: {text}, output: {name}}} to learn {name} from {text}, or "
                "format: text to learn the text alone"
            )
            raise raw.error(f"nothing says whether {text} or {name} is learned", fix, field=f"{field}.fields")


def refuse_unrendered(raw: RawRow, fields: dict[str, object], format: str) -> None:
    """Raise UserError for what a row of `format` says and nothing here renders; `fields` are renamed.

    Of a text nothing but the text is read, if no column says that the row counts otherwise than the others.
    """
    if _is_a_weight(fields.get("weight")):
        raise _unrendered(raw, "weight", "Remove the column, or give it another name: each row counts alike")
    for name in LEFT_OUT:
        is_said_of_a_text = format == "text" and name == "label"
        is_turn = any(fields.get(column) == fields.get(name) for column in COLUMNS[format])
        if _is_false(fields.get(name), name) and not (is_said_of_a_text or is_turn):
            raise _unrendered(raw, name, "Leave out such rows, or give the column another name")
    if format == "text":
        return
    for name in UNRENDERED:
        if not says_nothing(fields.get(name)):
            raise _unrendered(raw, name, "Remove the column, or write what it says into the turns")
    if format in ("chat", "prompt_completion") and not says_nothing(fields.get("system")):
        raise _unrendered(raw, "system", _way_for_system(fields, format))
    for column in COLUMNS[format]:
        read = _keys_of(fields.get(column)) if format == "sharegpt" else READ
        for i, message in enumerate(_dicts(fields.get(column))):
            _refuse_said(raw, message, f"{column}[{i}]", (*read, *KEPT))
            for j, part in enumerate(_dicts(message.get(read[1]))):
                _refuse_said(raw, part, f"{column}[{i}].{read[1]}[{j}]", READ_OF_A_PART)


def _refuse_said(raw: RawRow, message: dict[str, object], where: str, read: tuple[str, ...]) -> None:
    for name, value in message.items():
        as_it_is = name in TRAINED and value == 1
        if not (name in read or name in FILED or as_it_is or says_nothing(value)):
            fix = "Remove it from the message, or write what it says into the content"
            raise _unrendered(raw, f"{where}.{name}", fix)


def _unrendered(raw: RawRow, field: str, fix: str) -> UserError:
    return raw.error("not built yet: what it says would be lost", fix, field=field)


def _way_for_system(fields: dict[str, object], format: str) -> str:
    if format == "chat":
        return "Declare format: sharegpt with fields: {conversations: messages}, which reads it"
    if isinstance(fields.get("prompt"), list):
        return "Put it before the prompt's messages, as one of role system"
    return "Declare format: alpaca with fields: {instruction: prompt, output: completion}, which reads it"


def _dicts(value: Any) -> Iterator[dict[str, object]]:
    """Yield the objects of a list; anything else there becomes an empty one, which is then refused as
    malformed.
    """
    return iter([each if isinstance(each, dict) else {} for each in value] if isinstance(value, list) else ())


def _is_a_weight(value: Any) -> bool:
    """Say whether a weight is another than 1, which in CSV is a text; one in words (12 kg) is none of a
    row.
    """
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return False
    return value != 1 and not says_nothing(value)


def _is_false(value: Any, name: str) -> bool:
    """Say whether a column says `false`, which in CSV is a text; 0 is that too, but of a label a class."""
    if isinstance(value, str):
        value = {"false": False, "0": 0, "0.0": 0}.get(value.strip().lower())
    return value is False or (name != "label" and value is not None and value == 0)


def _refuse_preferences(raw: RawRow, fields: dict[str, object]) -> None:
    if "chosen" in fields and "rejected" in fields:
        raise raw.error("preference rows are not built yet", "Keep the chosen answer as `completion`")


def _chat(raw: RawRow, fields: dict[str, object]) -> Content:
    return Content("messages", _messages(raw, fields["messages"], "messages", READ, {}))


def _sharegpt(raw: RawRow, fields: dict[str, object]) -> Content:
    turns = fields["conversations"]
    messages = _messages(raw, turns, "conversations", _keys_of(turns), SHAREGPT_ROLES)
    return Content("messages", _with_system(raw, fields, messages))


def _keys_of(turns: Any) -> tuple[str, str]:
    """Return where a message of ShareGPT has its role and its content, as the first one says."""
    first = next(_dicts(turns), {})
    return READ_OF_SHAREGPT if "from" in first else READ


def _alpaca(raw: RawRow, fields: dict[str, object]) -> Content:
    instruction = _text(raw, fields["instruction"], "instruction")
    extra = _text(raw, fields.get("input") or "", "input")
    asked = f"{instruction}\n\n{extra}" if extra.strip() else instruction
    messages = (("user", asked, ""), ("assistant", _text(raw, fields["output"], "output"), ""))
    return Content("messages", _with_system(raw, fields, messages))


def _prompt_completion(raw: RawRow, fields: dict[str, object]) -> Content:
    prompt, completion = fields["prompt"], fields["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        before = _messages(raw, prompt, "prompt", READ, {})
        return Content("messages", before + _messages(raw, completion, "completion", READ, {}))
    prompt, completion = _text(raw, prompt, "prompt"), _text(raw, completion, "completion")
    if not completion.strip():
        raise _no_answer(raw, "completion")
    return Content("prompt_completion", prompt=prompt, completion=completion)


def _plain_text(raw: RawRow, fields: dict[str, object]) -> Content:
    column = "text" if fields.get("text") is not None else "content"
    text = _text(raw, fields[column], column)
    if not text.strip():
        raise raw.error("a row without text", "Remove the row", field=column)
    return Content("text", text=text)


PARSERS: dict[str, Callable[[RawRow, dict[str, object]], Content]] = {
    "chat": _chat,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "text": _plain_text,
}


def _messages(raw: RawRow, turns: Any, column: str, keys: tuple[str, str], roles: dict[str, str]) -> Turns:
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        fix = f"A list of {{{keys[0]}, {keys[1]}}} objects is needed, at least one"
        problem = f"malformed row: not a list of messages but {kind_of(turns)}"
        raise raw.error(problem, fix, field=column)
    messages = []
    for i, turn in enumerate(turns):
        where = f"{column}[{i}]"
        role = _role(raw, turn.get(keys[0]), f"{where}.{keys[0]}", roles)
        more, content = more_of(raw, turn, where, role), turn.get(keys[1])
        if content is None and more and role == "assistant":
            content = ""
        messages.append((role, _text(raw, content, f"{where}.{keys[1]}"), more))
    return tuple(messages)


def _role(raw: RawRow, role: Any, where: str, roles: dict[str, str]) -> str:
    known = list(roles) or list(ROLES)
    if not isinstance(role, str) or role not in known:
        raise raw.error(f"unknown role: {kind_of(role)}", f"Known are {', '.join(known)}", field=where)
    return roles.get(role, role)


def _text(raw: RawRow, value: Any, where: str) -> str:
    """Return a string, or a list of text parts joined; anything else is malformed."""
    if isinstance(value, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in value):
        parts = [(part.get("text"), f"{where}[{i}].text") for i, part in enumerate(value)]
        return "".join(_string(raw, text, place) for text, place in parts)
    return _string(raw, value, where)


def _string(raw: RawRow, value: Any, where: str) -> str:
    if not isinstance(value, str):
        problem = f"malformed row: not text but {kind_of(value)}"
        raise raw.error(problem, "Put a string there", field=where)
    return value


def _with_system(raw: RawRow, fields: dict[str, object], messages: Turns) -> Turns:
    """Put the system message first, which Alpaca and sharegpt may carry in a column of its own."""
    system = _text(raw, fields.get("system") or "", "system")
    return (("system", system, ""), *messages) if system.strip() else messages


def _checked(raw: RawRow, messages: Turns) -> Turns:
    role, answer, more = messages[-1]
    if role != "assistant":
        fix = "End each conversation with the answer to learn"
        raise raw.error("the last message is not the assistant's", fix, field="messages", value=role)
    if not answer.strip() and '"tool_calls":' not in more:
        raise _no_answer(raw, "messages")
    if not any(role == "user" for role, *_ in messages):
        raise raw.error("a conversation without a user turn", "Put the question before it", field="messages")
    return messages


def _no_answer(raw: RawRow, field: str) -> Exception:
    return raw.error(
        "a row without a completion: the answer is empty", "Fill it in, or remove it", field=field
    )
