"""Reads the arguments of a call from an answer's text: JSON, what is nearly JSON, or a call of Python."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ft_dagster.data.rows.tool_schemas import takes
from ft_dagster.strict_json import JsonObject

_CONSTANTS = {"true": True, "false": False, "null": None}
_BARE = re.compile(r'"(?:\\.|[^"\\])*"|(?<=[{,])\s*([\w.-]+)\s*:|\b(True|False|None)\b')
MOST_DEPTH, MOST_ENDS = 50, 200


def strict_json(text: str) -> Any:
    """Return the value of a whole text. Raises ValueError; NaN is no JSON."""
    return json.loads(text, parse_constant=_no_constant)


def json_at(text: str, at: int) -> tuple[JsonObject, int]:
    """Return the JSON object at a place, after white space, and where it ends. Raises ValueError."""
    at += len(text[at:]) - len(text[at:].lstrip())
    value, end = _DECODER.raw_decode(text, at)
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value, end


def objects_in(text: str, start: int) -> Iterator[tuple[JsonObject, int, int]]:
    """Yield each JSON object, with its place and its end, those within others too."""
    for found in re.compile(r"\{").finditer(text, max(0, start)):
        with suppress(ValueError):
            value, end = json_at(text, found.start())
            yield value, found.start(), end


def as_object(value: Any) -> Any:
    """Return arguments that are given as a text of JSON as what they say; any other value as it is."""
    if isinstance(value, str):
        with suppress(ValueError):
            return strict_json(value)
    return value


def bare_as_json(text: str, quotes: tuple[str, str]) -> str:
    """Return a text with all that is nearly JSON in it as JSON: its keys are bare, and texts stand between
    `quotes`.
    """
    opened, closed = map(re.escape, quotes)
    text = re.sub(f"{opened}(.*?){closed}", lambda found: json.dumps(found[1]), text, flags=re.DOTALL)
    return _BARE.sub(_quoted, text)


def python_arguments(text: str, at: int) -> tuple[JsonObject, int]:
    """Return the arguments of `(key=value, ...)` at a place, and where it ends. Raises ValueError."""
    if not text.startswith("(", at):
        raise ValueError("no call")
    for number, found in enumerate(re.compile(r"\)").finditer(text, at)):
        if number >= MOST_ENDS:
            break
        try:
            call = ast.parse(f"f{text[at : found.end()]}", mode="eval").body
        except (SyntaxError, MemoryError):
            continue
        if not isinstance(call, ast.Call) or call.args or any(each.arg is None for each in call.keywords):
            raise ValueError("no call")
        return {str(each.arg): _literal(each.value) for each in call.keywords}, found.end()
    raise ValueError("broken off")


def as_typed(text: str, schema: Any, argument: str) -> Any:
    """Return an argument that stands as a bare text, by its tool's schema: as the text where the schema takes
    that, else as the number, list or object that it is.
    """
    if takes(text, schema, argument):
        return text
    with suppress(ValueError):
        return strict_json(text)
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        return _literal(ast.parse(text.strip(), mode="eval").body)
    return text


def _no_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _quoted(found: re.Match[str]) -> str:
    """Return a bare key, or a word of Python, as JSON has it; a text as it is."""
    if found[1] is not None:
        return f"{json.dumps(found[1])}:"
    return found[0] if found[2] is None else json.dumps(ast.literal_eval(found[2]))


def _literal(node: ast.expr, depth: int = 0) -> Any:
    """Return the value of a literal of Python, in which words of JSON may stand. Raises ValueError."""
    if depth > MOST_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool | None):
        return node.value
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.List):
        return [_literal(each, depth + 1) for each in node.elts]
    if isinstance(node, ast.Dict):
        keys = [None if key is None else _literal(key, depth + 1) for key in node.keys]
        if all(isinstance(key, str) for key in keys):
            return dict(zip(keys, (_literal(each, depth + 1) for each in node.values), strict=True))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand, depth + 1)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return -value
    raise ValueError("no literal")
