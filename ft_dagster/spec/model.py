"""Gives every part of a declaration its base class: frozen, strict of types, read by the fields that a stage
lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from ft_dagster.schema_version import STORED
from ft_dagster.spec.plain import plain_value

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class UnlistedField(Exception):
    """Reports that a stage read a field of the declaration that it does not list: it would be missing in its
    key.
    """


class SpecModel(BaseModel):
    """Forms the base of each part of a declaration. `added`: fields that keys did not cover at first. At
    their default they enter none, so that what was made before stands. `gone`: fields that are no more, with
    the way out for who declares one.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False, defer_build=True
    )
    added: ClassVar[tuple[str, ...]] = ()
    gone: ClassVar[Mapping[str, str]] = {}

    @field_validator("*", mode="before")
    @classmethod
    def _is_of_its_plain_type(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse another plain type: pydantic would take `true` for 1, and 1 for true."""
        return plain_value(value, cls.model_fields[str(info.field_name)].annotation)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Raise for an unlisted field of a narrowed declaration (see spec.narrow)."""
            if name in type(self).model_fields:
                raise UnlistedField(f"{type(self).__name__}.{name} is read, and the stage does not list it")
            return super().__getattr__(name)


def former_auto(value: Any, info: ValidationInfo, usual: Any, otherwise: str) -> Any:
    """Put `usual` in place of the word `auto` of a frozen declaration; refuse the word in a file of today."""
    if value != "auto":
        return value
    if info.context == STORED:
        return usual
    raise PydanticCustomError(
        "former_auto",
        "no plan chooses it by the version before any more",
        {"fix": f"Name a number (`ft-dagster check` gives that of the newest plan), or {otherwise}"},
    )


def from_string(field: str) -> BeforeValidator:
    """Let a plain string stand for the object whose one needed field it is."""
    return BeforeValidator(lambda value: {field: value} if isinstance(value, str) else value)
