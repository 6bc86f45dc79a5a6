"""Reads rows of hosted fine-tuning one by one: kept as they are, written in the form of today, set apart as a
preference pair, or dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from ft_dagster.data.sources.formats import FILED
from ft_dagster.data.sources.readers import RawRow, columns_of, kind_of
from ft_dagster.strict_json import JsonObject
from ft_dagster.versions.imports.ledger import Kind
from ft_dagster.versions.imports.rules import PREFERENCES

PAIR = ("input", "preferred_output", "non_preferred_output")
BESIDE = (*FILED, "group", "licence", "license")  # columns of a row that is filed away by them
READ = ("messages", "tools", "functions", "parallel_tool_calls", "prompt", "completion", *BESIDE)
CARRIED = ("name", "weight", "tool_calls", "tool_call_id")  # of a message
NOT_TEXT = {
    "image_url": "an image",
    "input_image": "an image",
    "input_audio": "a recording",
    "audio": "a recording",
    "file": "a file",
    "input_file": "a file",
}
ROLES = {"developer": "system", "function": "tool"}  # former and other names of roles


class Noted(NamedTuple):
    """Says what became of a field of one row. `name`: such as rows.messages.weight."""

    kind: Kind
    name: str
    why: str = ""


class ReadRow(NamedTuple):
    """Holds a row as it goes on. `row`: None where it is dropped. `pair`: a preference pair in its place."""

    row: JsonObject | None
    changed: bool = False
    pair: JsonObject | None = None


def read_row(raw: RawRow, noted: Counter[Noted]) -> ReadRow:
    """Return what a row becomes, and count in `noted` what becomes of its fields. Raises UserError for a row
    of no form of the service.
    """
    fields = raw.fields
    if all(name in fields for name in PAIR):
        noted[Noted("dropped", "rows.preference_pairs", PREFERENCES)] += 1
        return ReadRow(None, pair=_pair(raw))
    if "messages" in fields:
        return _chat(raw, noted)
    if "prompt" in fields and "completion" in fields:
        noted[Noted("carried", "rows.prompt and completion")] += 1
        _note_unread(fields, noted)
        return ReadRow(dict(fields))
    fix = f"A row has messages, a pair {', '.join(PAIR)}; this one has: {columns_of(fields)}"
    raise raw.error("no form of the service's rows", fix)


def _chat(raw: RawRow, noted: Counter[Noted]) -> ReadRow:
    turns = _turns(raw, raw.fields["messages"], "messages")
    if (lost := _lost(turns)) is not None:
        noted[Noted("dropped", "rows", lost)] += 1
        return ReadRow(None)
    found = Counter[Noted]()
    calls = _Calls()
    _refuse_both(raw, raw.fields, "functions", "tools", "")
    for i, turn in enumerate(turns):
        _refuse_both(raw, turn, "function_call", "tool_calls", f"messages[{i}].")
    messages = [_message(turn, calls, found) for turn in turns]
    row = {**raw.fields, "messages": messages}
    if row.get("functions"):
        row["tools"] = [{"type": "function", "function": each} for each in _functions(raw)]
        found[Noted("changed", "rows.functions", "written as tools")] += 1
        del row["functions"]
    if row.get("tools"):
        found[Noted("carried", "rows.tools")] += 1
    found[Noted("carried", "rows.messages")] += 1
    _note_parallel(row, found)
    _note_unread(raw.fields, found)
    noted.update(dict.fromkeys(found, 1))
    return ReadRow(row, changed=row != raw.fields)


def _refuse_both(raw: RawRow, said: JsonObject, former: str, name: str, where: str) -> None:
    """Raise UserError for what is said in its former form and in that of today."""
    if said.get(former) and said.get(name):
        raise raw.error(f"{former} and {name} stand together", "Keep one of them", field=f"{where}{former}")


def _turns(raw: RawRow, turns: Any, column: str) -> list[JsonObject]:
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        fix = "A list of {role, content} objects is needed, at least one"
        problem = f"malformed row: not a list of messages but {kind_of(turns)}"
        raise raw.error(problem, fix, field=column)
    return turns


def _lost(turns: list[JsonObject]) -> str | None:
    """Say why nothing can be learned from a conversation; None where it can."""
    kinds = {str(part.get("type")) for turn in turns for part in _parts(turn)}
    kinds |= {"audio" for turn in turns if turn.get("audio")}
    for kind in sorted(kinds & NOT_TEXT.keys()):
        return f"it holds {NOT_TEXT[kind]}, and models of text are trained here"
    if turns[-1].get("role") != "assistant":
        return "it ends without an answer of the assistant"
    return None


def _parts(turn: JsonObject) -> Iterator[JsonObject]:
    content = turn.get("content")
    return (part for part in content if isinstance(part, dict)) if isinstance(content, list) else iter(())


class _Calls:
    """Numbers the calls of the older form, so that an answer names the call before it."""

    def __init__(self) -> None:
        self.made = 0

    @property
    def id(self) -> str:
        return f"call_{self.made}"


def _message(turn: JsonObject, calls: _Calls, noted: Counter[Noted]) -> JsonObject:
    """Return a message in the form of today, and note what became of its fields."""
    made = dict(turn)
    role = turn.get("role")
    if isinstance(role, str) and role in ROLES:
        made["role"] = ROLES[role]
        noted[Noted("changed", f"rows.messages.role {role}", f"written as {ROLES[role]}")] += 1
    if turn.get("function_call"):
        calls.made += 1
        made["tool_calls"] = [{"id": calls.id, "type": "function", "function": made.pop("function_call")}]
        noted[Noted("changed", "rows.messages.function_call", "written as tool_calls")] += 1
    if role == "function" and calls.made:
        made.setdefault("tool_call_id", calls.id)
    if (refused := _refusal(turn)) is not None:
        made["content"] = refused
        noted[Noted("changed", "rows.messages.refusal", "written as the content, which is learned")] += 1
        made.pop("refusal", None)
    for name in CARRIED:
        if turn.get(name) is not None:
            noted[Noted("carried", f"rows.messages.{name}", "0 is context alone" * (name == "weight"))] += 1
    if _calls_of(turn) > 1:
        noted[Noted("carried", "rows.messages.tool_calls, several in a turn")] += 1
    return made


def _calls_of(turn: JsonObject) -> int:
    calls = turn.get("tool_calls")
    return len(calls) if isinstance(calls, list) else 0


def _refusal(turn: JsonObject) -> str | None:
    """Return the text of a message that is, or holds, a refusal; None where there is none."""
    whole = turn.get("refusal")
    if isinstance(whole, str) and whole and not turn.get("content"):
        return whole
    parts = list(_parts(turn))
    if not any(part.get("type") == "refusal" for part in parts):
        return None
    return "".join(str(part.get("refusal") or part.get("text") or "") for part in parts)


def _functions(raw: RawRow) -> list[Any]:
    functions = raw.fields["functions"]
    if not isinstance(functions, list) or not all(isinstance(each, dict) for each in functions):
        problem = f"malformed row: not a list of functions but {kind_of(functions)}"
        raise raw.error(problem, "Write a list of {name, parameters} objects", field="functions")
    return functions


def _note_parallel(row: JsonObject, noted: Counter[Noted]) -> None:
    allowed = row.get("parallel_tool_calls")
    if allowed is None:
        return
    most = max(map(_calls_of, row["messages"]))
    if allowed or most < 2:
        why = "the row's own calls show it"
        noted[Noted("carried", "rows.parallel_tool_calls", why)] += 1
    else:
        why = "false, and a turn of the row makes several calls"
        noted[Noted("dropped", "rows.parallel_tool_calls", why)] += 1


def _note_unread(fields: dict[str, object], noted: Counter[Noted]) -> None:
    for name, value in fields.items():
        if name not in READ and value not in (None, "", [], {}):
            noted[Noted("dropped", f"rows.{name}", "nothing here reads this column")] += 1


def _pair(raw: RawRow) -> JsonObject:
    """Return a preference pair as TRL and this project name its parts."""
    given, preferred, other = (raw.fields[name] for name in PAIR)
    if not isinstance(given, dict):
        problem = f"malformed row: not an object but {kind_of(given)}"
        raise raw.error(problem, "Write {messages: [...]} there", field="input")
    prompt = _turns(raw, given.get("messages"), "input.messages")
    chosen = _turns(raw, preferred, "preferred_output")
    rejected = _turns(raw, other, "non_preferred_output")
    beside = {name: value for name, value in given.items() if name != "messages"}
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **beside}
