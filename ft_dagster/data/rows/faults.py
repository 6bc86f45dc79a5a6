"""Says what is wrong with a conversation as a whole: its calls, their tools and answers, its turns.

A row with a fault is left out of the data set and counted by the reason, up to the declared share of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ft_dagster.data.rows.rows import Row
from ft_dagster.data.rows.tool_schemas import UNUSABLE, function_of, schemas_of, why_not
from ft_dagster.errors import UserError
from ft_dagster.strict_json import JsonObject, loads

BROKEN = "tools or calls that are no JSON of that form"
UNKNOWN = "a call of a tool that the row does not have"
AGAINST = "arguments against the tool's schema"
NO_SCHEMA = "a tool whose schema cannot be used"
UNTRAINED = "no answer is trained"
SYSTEMS = "two system turns"
ORPHAN = "a tool's answer without its call"
FAULTS = (BROKEN, UNKNOWN, AGAINST, NO_SCHEMA, UNTRAINED, SYSTEMS, ORPHAN)
DEEPEST = 64  # levels of nesting: what reads calls and tools recurses


def fault_of(row: Row) -> str | None:
    """Return what is wrong with a row, None for most. Raises UserError for a schema that takes more time than
    schemas have.
    """
    if row.kind != "messages":
        return None
    roles = [message.role for message in row.messages]
    if roles.count("system") > 1:
        return SYSTEMS
    if not any(message.role == "assistant" and message.is_trained for message in row.messages):
        return UNTRAINED
    if not row.says_more and "tool" not in roles:
        return None
    try:
        return _fault_of_calls(row)
    except _Broken:
        return BROKEN
    except UserError as error:
        file, line = (row.named, None) if row.place is None else (row.place.file, row.place.line)
        raise UserError(error.problem, file=file, line=line, field=error.field, fix=error.fix) from None


def malformed(
    firsts: Mapping[str, Row], counts: Mapping[str, int], read: str, allowed: float, file: object
) -> UserError:
    """Return the error of rows of which more have a fault than may. `firsts`: the first row of each fault;
    `read`: how many rows there are.
    """
    named = [
        f"{counts[fault]:,}: {fault} (first {place.file}:{place.line})"
        for fault, row in firsts.items()
        if (place := row.place) is not None
    ]
    return UserError(
        f"{sum(counts[fault] for fault in firsts):,} of {read} are malformed: {'; '.join(named)}",
        file=file,
        field="data.max_malformed",
        value=allowed,
        fix="Mend the rows, or declare the share of them that may be left out",
    )


class _Broken(Exception):
    """Signals what is no JSON, or not of the form."""


def _arguments_of(call: Mapping[str, Any]) -> JsonObject | None:
    """Return the arguments of a call as an object; None for what is none."""
    given = call["function"].get("arguments")
    if isinstance(given, str):
        try:
            given = _exact(given) if given.strip() else {}
        except ValueError:
            return None
    given = {} if given is None else given
    return given if isinstance(given, dict) else None


def _fault_of_calls(row: Row) -> str | None:
    tools = _tools(row)
    waiting: list[str | None] = []  # ids of calls whose answers have not come
    for message in row.messages:
        said = _read(message.more or "{}")
        if message.role == "tool":
            if (fault := _answered(waiting, said.get("tool_call_id"))) is not None:
                return fault
            continue
        waiting = []
        for call in _calls(said):
            name, arguments = call["function"]["name"], _arguments_of(call)
            if arguments is None:
                raise _Broken
            if tools and name not in tools:
                return UNKNOWN
            if tools and (why := why_not(arguments, tools[name])):
                return NO_SCHEMA if why.startswith(UNUSABLE) else AGAINST
            waiting.append(call.get("id"))
    return None


def _tools(row: Row) -> JsonObject:
    """Return the schema of each tool's arguments, by name. Raises _Broken."""
    tools = _read(row.tools or "[]")
    if not isinstance(tools, list) or not all(map(_is_tool, tools)):
        raise _Broken
    return schemas_of(tools)


def _is_tool(tool: Any) -> bool:
    """Say whether a tool has a name, and says what it takes as an object, or not at all. A property that is
    null, as `datasets` writes those of other rows' tools into JSON, is no schema.
    """
    function = function_of(tool)
    if function is None:
        return False
    schemas = [function.get(name) for name in ("parameters", "input_schema")]
    taken = [schema.get("properties") for schema in schemas if isinstance(schema, dict)]
    properties = (one for each in taken if isinstance(each, dict) for one in each.values())
    are_objects = all(each is None or isinstance(each, dict) for each in (*schemas, *taken))
    return are_objects and all(isinstance(one, dict | bool) for one in properties)


def _read(text: str) -> Any:
    """Parse what a row says. Raises _Broken."""
    try:
        return _exact(text)
    except ValueError:
        raise _Broken from None


def _exact(text: str) -> Any:
    """Parse JSON that every reader and template takes for the same. Raises ValueError: for a name that stands
    twice in an object, a number that is not finite, half of a surrogate pair, or too deep nesting.
    """
    content = loads(text, once=True)
    if _is_deeper(content, DEEPEST):
        raise ValueError("nested too deeply")
    json.dumps(content, allow_nan=False, ensure_ascii=False).encode()
    return content


def _is_deeper(content: Any, levels: int) -> bool:
    inner = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return levels < 0 or any(_is_deeper(each, levels - 1) for each in inner)


def _calls(said: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    calls = said.get("tool_calls", [])
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise _Broken
    for call in calls:
        if not isinstance(call, Mapping) or function_of({"function": call.get("function")}) is None:
            raise _Broken
        yield call


def _answered(waiting: list[str | None], id_: str | None) -> str | None:
    """Take the call that an answer answers from those that wait: the one of its id, else the first one."""
    if not waiting:
        return ORPHAN
    if id_ is not None and any(waiting):
        if id_ not in waiting:
            return ORPHAN
        waiting.remove(id_)
    else:
        waiting.pop(0)
    return None
