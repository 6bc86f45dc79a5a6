"""Holds the arguments of a call against the JSON schema that its tool declares.

A schema comes with rows, and may compute whatever it likes: its patterns are held by an engine whose time
grows with the text and no faster, and all that it does has a limit of time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ft_dagster.data.files import time_limit
from ft_dagster.data.files.time_limit import Account, OutOfTime, within
from ft_dagster.data.rows.ecma_patterns import as_rust
from ft_dagster.errors import UserError

DEFINITIONS = ("$defs", "definitions", "$schema")
UNUSABLE = "the tool's schema cannot be used"
STEPS = 100_000_000  # of a pattern in one text: a few seconds at most, which nothing ends
_ACCOUNT = Account()  # of all schemas: each call gives time back


class _Unusable(ValueError):
    """Says why nothing can be held against a schema, in words that follow `UNUSABLE`."""


def function_of(tool: Any) -> Mapping[str, Any] | None:
    """Return the function of a tool, whether it stands within the tool or is the tool; None for neither."""
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    named = isinstance(function, Mapping) and isinstance(function.get("name"), str) and function["name"]
    return function if named else None


def schemas_of(tools: Sequence[Any]) -> dict[str, Any]:
    """Return the JSON schema of the arguments of each tool, by the tool's name."""
    found: dict[str, Any] = {}
    for function in filter(None, map(function_of, tools)):
        schema = function.get("parameters", function.get("input_schema"))
        found[function["name"]] = {} if schema is None else schema
    return found


def why_invalid(name: str, arguments: Any, schemas: Mapping[str, Any]) -> str:
    """Say why a call is not valid, without its arguments, which are a row's; empty where it is. `schemas`:
    see `schemas_of`. A schema that is none, or that names another document, holds for nothing. Raises
    UserError as `why_not`.
    """
    return why_not(arguments, schemas[name]) if name in schemas else "it names no tool of the row"


def why_not(value: Any, schema: Any) -> str:
    """Say why a value does not hold a schema; empty where it does. Nothing is fetched. Raises UserError for
    one that takes more time than schemas have.
    """
    import jsonschema.validators  # noqa: F401  # before its time counts

    try:
        return within(_ACCOUNT, lambda: _why_not(value, schema))
    except OutOfTime:
        raise UserError(
            f"the schema of a tool takes more than {time_limit.SECONDS:g} seconds, and does not seem to end",
            field="tools",
            fix="Declare fewer $ref within $ref, and no uniqueItems of long lists, or leave the tool out",
        ) from None


def takes(value: Any, schema: Any, argument: str) -> bool:
    """Say whether an argument of that name may have this value; any, where the schema does not name it.
    Raises UserError as `why_not`.
    """
    properties = schema.get("properties") if isinstance(schema, dict) else None
    of_this = properties.get(argument) if isinstance(properties, dict) else None
    if not isinstance(of_this, dict):
        return True
    defined = {name: schema[name] for name in DEFINITIONS if name in schema}
    return not why_not(value, {**defined, **of_this})


def _why_not(value: Any, schema: Any) -> str:
    from jsonschema.exceptions import best_match

    try:
        held = _compiled(json.dumps(schema))
        error = None if isinstance(held, str) else best_match(held.iter_errors(value))
    except Exception as problem:  # whatever a schema can cause
        return _cannot(problem)
    if isinstance(held, str):
        return held
    return "" if error is None else f"its arguments break {error.validator!r} of the tool's schema"


@lru_cache(maxsize=256)
def _compiled(text: str) -> Any:
    """Return what holds values against a schema, made once of each; why none can be made, as a text."""
    from jsonschema import FormatChecker
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    schema = json.loads(text)
    try:
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema, format_checker=FormatChecker(()))  # a pattern is read where it is held
        if '"unevaluatedProperties":' in text and '"patternProperties":' in text:
            raise _Unusable("unevaluatedProperties beside patternProperties")
        return _by_linear_patterns(kind)(schema, registry=Registry())
    except Exception as problem:  # whatever a schema can cause
        return _cannot(problem)


def _cannot(problem: Exception) -> str:
    why = str(problem) if isinstance(problem, _Unusable) else type(problem).__name__.lstrip("_")
    return f"{UNUSABLE} ({why})"


@lru_cache(maxsize=16)
def _by_linear_patterns(kind: Any) -> Any:
    """Return a dialect of JSON schema whose patterns take no longer than texts are long: Python's own may
    take years (`(a+)+$`), in one step that nothing ends.
    """
    from jsonschema.validators import extend

    held = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties(kind.VALIDATORS["additionalProperties"]),
    }
    made: Any = extend(kind, held)
    plain = made.evolve

    def evolve(self: Any, **changes: Any) -> Any:
        """Keep to such patterns below a `$schema` that stands within a schema."""
        below = plain(self, **changes)
        if type(below) is made:
            return below
        kind: Any = type(below)
        parts = {each.alias: getattr(below, each.name) for each in kind.__attrs_attrs__ if each.init}
        return _by_linear_patterns(kind)(**parts)

    made.evolve = evolve
    return made


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if validator.is_type(instance, "string") and not _matcher(pattern)(instance):
        yield ValidationError("does not match the pattern")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[Any]:
    for pattern, below in patterns.items() if validator.is_type(instance, "object") else ():
        for name in filter(_matcher(pattern), instance):
            yield from validator.descend(instance[name], below, path=name, schema_path=pattern)


def _additional_properties(plain: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def held(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[Any]:
        """Leave out what a pattern names, and hold the rest as if there were no patterns."""
        matchers = [_matcher(pattern) for pattern in schema.get("patternProperties", ())]
        if matchers and validator.is_type(instance, "object"):
            unnamed = (name for name in instance if not any(matches(name) for matches in matchers))
            instance = {name: instance[name] for name in unnamed}
            schema = {name: said for name, said in schema.items() if name != "patternProperties"}
        yield from plain(validator, allowed, instance, schema) or ()

    return held


@lru_cache(maxsize=32)  # of up to 12 MB each
def _matcher(pattern: str) -> Callable[[str], bool]:
    """Return the function that says whether a text has what a pattern says in it, in time that grows with the
    text. Raises _Unusable for a pattern that needs another engine.
    """
    from pydantic_core import SchemaError, SchemaValidator
    from pydantic_core.core_schema import str_schema

    try:
        linear, letters = as_rust(pattern)
        held = SchemaValidator(str_schema(pattern=linear, regex_engine="rust-regex", strict=True))
    except (SchemaError, ValueError):
        problem = "a pattern that looks around or back, is too large, or is not written as JSON schema says"
        raise _Unusable(problem) from None

    def matches(text: str) -> bool:
        if letters * len(text) > STEPS:
            raise _Unusable("a pattern that is too large for a text so long")
        return held.isinstance_python(text)

    return matches
