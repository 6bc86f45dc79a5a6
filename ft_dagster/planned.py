"""Defines a part of plan.json: every value is there, and stored plans stay readable."""

from __future__ import annotations

from typing import Any, ClassVar

from annotated_types import Le
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Planned(BaseModel):
    """Takes the upper bounds of a declaration off the fields: plans may have been made before a bound was
    narrowed. Unknown fields are refused.

    `unsaid`: fields that plans did not have at first. Each is left out at its default, so that a plan that
    says nothing of it keeps its digest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    unsaid: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for field in cls.model_fields.values():
            field.metadata = [each for each in field.metadata if not isinstance(each, Le)]
        cls.model_rebuild(force=True)

    @model_serializer(mode="wrap")
    def _without_what_is_usual(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is `unsaid` and at its default."""
        content: dict[str, Any] = handler(self)
        for name in self.unsaid:
            if getattr(self, name) == type(self).model_fields[name].get_default():
                content.pop(name, None)
        return content
