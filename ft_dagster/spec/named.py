"""Lists what a declaration names outside of itself, also where other parts of it are invalid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ft_dagster.spec.data import RowSource, SourceSpec, TenantSource
from ft_dagster.spec.variant import Base, BaseModelSpec, EvaluationSpec

_BASE: TypeAdapter[BaseModelSpec] = TypeAdapter(Base)
_SOURCE: TypeAdapter[TenantSource] = TypeAdapter(RowSource)
T = TypeVar("T")
_ENTRY = TypeAdapter(str)


@dataclass(frozen=True)
class Named:
    """Holds the parts that are valid by themselves. `sources` by their place in the list; `tasks` by role
    (task, general): lm-eval names or YAML files; `database` only where queries run on it.
    """

    base_model: BaseModelSpec | None
    sources: dict[int, SourceSpec]
    corpus: str | None
    tasks: dict[str, tuple[str, ...]]
    database: str | None


def named_by(content: Mapping[str, Any]) -> Named:
    """Return what a declaration over its defaults names, as its files say it; an empty one names nothing."""
    data, evaluation = _mapping(content, "data"), _mapping(content, "evaluation")
    sources, general = data.get("sources"), _mapping(data, "general")
    given = {"general": EvaluationSpec().general if content else (), **evaluation}
    tasks = {role: _entries(given.get(role)) for role in ("task", "general")}
    queried = evaluation.get("kind") == "sql" and not tasks["task"]
    return Named(
        base_model=_valid(_BASE, content.get("base_model")),
        sources={
            i: found
            for i, one in enumerate(sources if isinstance(sources, list) else ())
            if (found := _valid(_SOURCE, one)) is not None
        },
        corpus=_valid(_ENTRY, general.get("corpus")),
        tasks=tasks,
        database=_valid(_ENTRY, evaluation.get("database")) if queried else None,
    )


def _mapping(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def _entries(given: Any) -> tuple[str, ...]:
    return tuple(one for one in given if isinstance(one, str)) if isinstance(given, list | tuple) else ()


def _valid(adapter: TypeAdapter[T], value: Any) -> T | None:
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return None
