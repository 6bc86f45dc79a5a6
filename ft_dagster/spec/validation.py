"""Hold content against a model: every mistake as a UserError of its own, with the nearest known name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from ft_dagster.errors import UserError, UserErrors

T = TypeVar("T", bound=BaseModel)
SEE_SCHEMA = "See `ft-dagster schema` for what the field takes"


def validate(
    model: type[T], content: dict[str, Any], file_of: Callable[[str], Path], fix: str = SEE_SCHEMA
) -> T:
    """`content` as a model; `file_of`: the file that says a dotted field. Raises UserError, of all mistakes.

    `fix`: the way out where there is no nearer one.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserErrors.of(mistakes_in(error, model, file_of, fix)) from None


def mistakes_in(
    error: ValidationError, model: type[BaseModel], file_of: Callable[[str], Path], fix: str = SEE_SCHEMA
) -> list[UserError]:
    """One a field: of a value that none of several types takes, what each of them says."""
    by_field: dict[str, list[Any]] = {}
    for one in error.errors(include_url=False):
        by_field.setdefault(".".join(map(str, _path(one))), []).append(one)
    return [
        UserError(
            " or ".join(dict.fromkeys(map(_problem, found))),
            file=file_of(field),
            field=field or None,
            value=_value(found[0]),
            fix=_fix(model, _path(found[0]), found[0], fix),
        )
        for field, found in by_field.items()
        if not any(other.startswith(f"{field}.") for other in by_field)  # a union's other members
    ]


def nearest(name: str, known: list[str], otherwise: str) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else otherwise


def _path(error: Any) -> list[Any]:
    """Where the value stands; pydantic's names of unions' members and of validators are left out."""
    *above, last = error["loc"] or ("",)
    own = [part for part in above if not _of_pydantic(part)]
    return own if error["type"] != "extra_forbidden" and _of_pydantic(last) else [*own, last]


def _of_pydantic(part: Any) -> bool:
    return isinstance(part, str) and (part.startswith(("function-", "constrained-")) or "[" in part)


def _problem(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown field"
    if error["type"] == "missing":
        return "needed, but not given"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _value(error: Any) -> object:
    return None if error["type"] in ("missing", "extra_forbidden") else error["input"]


def _fix(model: type[BaseModel], path: list[Any], error: Any, otherwise: str) -> str:
    if error["type"] == "extra_forbidden":
        kind, name = _model_at(model, path[:-1]), str(path[-1])
        if name in getattr(kind, "gone", {}):
            return str(kind.gone[name])  # type: ignore[attr-defined]
        known = list(kind.model_fields)
        return nearest(name, known, f"Known here: {', '.join(known)}")
    return str(error.get("ctx", {}).get("fix", otherwise))


def _model_at(model: type[BaseModel], path: list[Any]) -> type[BaseModel]:
    for part in path:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        inner = None if field is None else _inner_model(field.annotation)
        model = inner or model
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for arg in get_args(annotation) if (m := _inner_model(arg))), None)
