"""Defines variant keys: `tenant.variant`, safe as a partition key, a tag value, a path and an S3 prefix."""

from __future__ import annotations

import re
from typing import NamedTuple

from ft_dagster.errors import UserError

HALF = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")
DECLARATION = re.compile(rf"(?:.*/)?({HALF.pattern})/({HALF.pattern})(?:\.ya?ml)?")
RESERVED = "shared"  # no tenant's name: what all share stands under it
RULE = (
    "Use tenant.variant, each half 1 to 30 of a-z, 0-9 and '-', not starting or ending with '-', "
    "for example acme.support"
)


class VariantKey(NamedTuple):
    """Names a variant: `acme.support` = tenant `acme`, variant `support`."""

    tenant: str
    variant: str

    @classmethod
    def parse(cls, text: str, *, file: object = None) -> VariantKey:
        """Raises UserError unless both halves match the rule; nothing else may touch a path."""
        halves = text.split(".")
        if len(halves) != 2 or not all(HALF.fullmatch(half) for half in halves):
            of_file = DECLARATION.fullmatch(text)
            fix = RULE if of_file is None else f"Write {of_file[1]}.{of_file[3]} for this file"
            raise UserError("not a variant key", value=text, file=file, fix=fix)
        return cls(*halves)

    @property
    def prefix(self) -> str:
        """Return the variant's own part of the store."""
        return f"tenants/{self.tenant}/{self.variant}"

    def __str__(self) -> str:
        return f"{self.tenant}.{self.variant}"
