"""Holds the arguments of a call against the JSON schema that its tool declares."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

DEFINITIONS = ("$defs", "definitions", "$schema")


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
    see `schemas_of`. A schema that is none, or that names another document, holds for nothing.
    """
    return why_not(arguments, schemas[name]) if name in schemas else "it names no tool of the row"


def why_not(value: Any, schema: Any) -> str:
    """Say why a value does not hold a schema; empty where it does. Nothing is fetched."""
    from jsonschema.exceptions import ValidationError

    try:
        _validator(json.dumps(schema)).validate(value)
    except ValidationError as error:
        return f"its arguments break {error.validator!r} of the tool's schema"
    except Exception as error:  # whatever a schema can cause
        return f"the tool's schema cannot be used ({type(error).__name__.lstrip('_')})"
    return ""


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    """Return what holds values against a schema, given as JSON: to make one takes milliseconds."""
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    content = json.loads(schema)
    kind = validator_for(content, default=Draft202012Validator)
    kind.check_schema(content)
    return kind(content, registry=Registry())


def takes(value: Any, schema: Any, argument: str) -> bool:
    """Say whether an argument of that name may have this value; any, where the schema does not name it."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    of_this = properties.get(argument) if isinstance(properties, dict) else None
    if not isinstance(of_this, dict):
        return True
    defined = {name: schema[name] for name in DEFINITIONS if name in schema}
    return not why_not(value, {**defined, **of_this})
