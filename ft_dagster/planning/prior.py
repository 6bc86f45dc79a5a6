"""What a probe of another variant found: taken for what a declaration leaves open where nothing is tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ft_dagster.planning.survey import Survey, lora_settings, same_family, with_method
from ft_dagster.schema_version import refuse_newer, refuse_newer_fields
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.formats import export_problem

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Prior:
    """`variant`: whose, of the same base and objective, not by name where it is another tenant's. `probe`:
    digest of what it found, then empty; `sentence`: what was measured there. `learning_rate`: None where one
    alone was tried, `method_tried`: whether more than one method was; what was not tried may be what the
    other's declaration said, and is nobody else's.
    """

    variant: str
    probe: str
    method: str
    learning_rate: float | None
    sentence: str
    method_tried: bool = True

    def to_json(self) -> dict[str, Any]:
        """What was found whole as version 1 wrote it."""
        content = asdict(self)
        if self.method_tried and self.learning_rate is not None:
            del content["method_tried"]
            return {"schema_version": 1, **content}
        return {"schema_version": SCHEMA_VERSION, **content}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, file: object = None) -> Prior:
        """Raises UserError for one of a newer version."""
        refuse_newer(content["schema_version"], SCHEMA_VERSION, file=file)
        with refuse_newer_fields(file):
            return cls(**{name: value for name, value in content.items() if name != "schema_version"})

    @property
    def said(self) -> str:
        """Of the plan's reasons."""
        return f"{self.variant}, on this base for this objective: {self.sentence}"

    def applied(self, spec: VariantSpec, found: Survey) -> VariantSpec:
        """The declaration with it in place of what is left open; as it is where that cannot be had. `found`:
        without it.
        """
        chosen, declared = found.chosen.resolved.name, spec.training.learning_rate
        if self.method_tried and leaves_method_open(spec):
            if not self._can_be_had(spec, found):
                return spec
            named = with_method(spec, self.method)
        elif declared is not None or self.learning_rate is None or not same_family(chosen, self.method):
            return spec
        else:
            named = spec if leaves_method_open(spec) else with_method(spec, chosen)
        rate = {"learning_rate": self.learning_rate if declared is None else declared}
        return named.model_copy(update={"training": named.training.model_copy(update=rate)})

    def _can_be_had(self, spec: VariantSpec, found: Survey) -> bool:
        fits = self.method in found.planned and found.decision.row(self.method).fits
        return fits and export_problem(self.method, spec.export.format) is None


def leaves_open(spec: VariantSpec) -> bool:
    return leaves_method_open(spec) or spec.training.learning_rate is None


def leaves_method_open(spec: VariantSpec) -> bool:
    return spec.method.name == "auto" and not lora_settings(spec)
