"""Defines what the parts of `ft_dagster.yaml` are made of: frozen, no unknown field, and numbers that are
numbers.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from ft_dagster.spec.keys import HALF
from ft_dagster.spec.plain import plain_value

Tenant = Annotated[str, Field(pattern=rf"^{HALF.pattern}$")]


class Part(BaseModel):
    """Is a part of the settings. Numbers may be texts, as the environment gives them; `true` is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_of_its_plain_type(cls, value: Any, info: ValidationInfo) -> Any:
        return plain_value(value, cls.model_fields[str(info.field_name)].annotation)
