"""Says what is wrong with a conversation as a whole: its calls, their tools and answers, its turns.

A row with a fault is left out of the data set and counted by the reason, up to the declared share of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ft_dagster.data.rows.rows import Row
from ft_dagster.data.rows.tool_schemas import function_of, schemas_of, why_not
from ft_dagster.strict_json import JsonObject, loads

BROKEN = "tools or calls that are no JSON of that form"
UNKNOWN = "a call of a tool that the row does not have"
AGAINST = "arguments against the tool's schema"
UNTRAINED = "no answer is trained"
SYSTEMS = "two system turns"
ORPHAN = "a tool's answer without its call"
FAULTS = (BROKEN, UNKNOWN, AGAINST, UNTRAINED, SYSTEMS, ORPHAN)


def fault_of(row: Row) -> str | None:
    """Return what is wrong with a row, None for most."""
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


class _Broken(Exception):
    """Signals what is no JSON, or not of the form."""


def _arguments_of(call: Mapping[str, Any]) -> JsonObject | None:
    """Return the arguments of a call as an object; None for what is none."""
    given = call["function"].get("arguments")
    if isinstance(given, str):
        try:
            given = loads(given, once=True) if given.strip() else {}
        except ValueError:
            return None
    given = {} if given is None else given
    return given if isinstance(given, dict) else None


def _fault_of_calls(row: Row) -> str | None:
    tools = _tools(row)
    waiting: list[str | None] = []  # ids of calls whose answers have not come
    for message in row.messages:
        said = message.said
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
            if tools and why_not(arguments, tools[name]):
                return AGAINST
            waiting.append(call.get("id"))
    return None


def _tools(row: Row) -> JsonObject:
    """Return the schema of each tool's arguments, by name. Raises _Broken."""
    try:
        tools = loads(row.tools) if row.tools else []
    except ValueError:
        raise _Broken from None
    if not isinstance(tools, list) or any(function_of(tool) is None for tool in tools):
        raise _Broken
    return schemas_of(tools)


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
