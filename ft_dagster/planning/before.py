"""What the version before showed of the values that a declaration leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ft_dagster.schema_version import refuse_newer, refuse_newer_fields

SCHEMA_VERSION = 1
Spectrum = Literal["flat", "collapsed", "fits"]


@dataclass(frozen=True)
class VersionBefore:
    """Of the newest model of a variant, None for what it does not show.

    `rank`, `target_modules` (names, or all-linear): of its LoRA, on the same base for the same objective.
    `spectrum`: what its singular values say of that rank. `share`: of general text in its mixture, as asked.
    `general_rise`: of the loss on held-out general text, as judged, nats a token; `general_margin`: the
    largest that passed.
    """

    rank: int | None = None
    target_modules: list[str] | str | None = None
    spectrum: Spectrum | None = None
    share: float | None = None
    general_rise: float | None = None
    general_margin: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, file: object = None) -> VersionBefore:
        """Raises UserError for one of a newer version."""
        refuse_newer(content["schema_version"], SCHEMA_VERSION, file=file)
        with refuse_newer_fields(file):
            return cls(**{name: value for name, value in content.items() if name != "schema_version"})
