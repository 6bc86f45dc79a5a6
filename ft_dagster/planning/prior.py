"""What a probe of another variant found: taken for what a declaration leaves open where nothing is tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ft_dagster.planning.survey import Survey, lora_settings, same_family, with_method
from ft_dagster.schema_version import refuse_newer
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.formats import export_problem

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Prior:
    """`variant`: whose, of the same base and objective, not by name where it is another tenant's. `probe`:
    digest of what it found, then empty; `sentence`: what was measured there.
    """

    variant: str
    probe: str
    method: str
    learning_rate: float
    sentence: str

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, file: object = None) -> Prior:
        """Raises UserError for one of a newer version."""
        refuse_newer(content["schema_version"], SCHEMA_VERSION, file=file)
        return cls(**{name: value for name, value in content.items() if name != "schema_version"})

    @property
    def said(self) -> str:
        """Of the plan's reasons."""
        return f"{self.variant}, on this base for this objective: {self.sentence}"

    def applied(self, spec: VariantSpec, found: Survey) -> VariantSpec:
        """The declaration with it in place of what is left open; as it is where that cannot be had. `found`:
        without it.
        """
        open_method, method = leaves_method_open(spec), found.chosen.resolved.name
        if open_method and self._can_be_had(spec, found):
            method = self.method
        elif open_method or spec.training.learning_rate is not None or not same_family(method, self.method):
            return spec
        named, declared = with_method(spec, method), spec.training.learning_rate
        rate = {"learning_rate": self.learning_rate if declared is None else declared}
        return named.model_copy(update={"training": named.training.model_copy(update=rate)})

    def _can_be_had(self, spec: VariantSpec, found: Survey) -> bool:
        fits = self.method in found.planned and found.decision.row(self.method).fits
        return fits and export_problem(self.method, spec.export.format) is None


def leaves_open(spec: VariantSpec) -> bool:
    return leaves_method_open(spec) or spec.training.learning_rate is None


def leaves_method_open(spec: VariantSpec) -> bool:
    return spec.method.name == "auto" and not lora_settings(spec)
