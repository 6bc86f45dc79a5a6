"""Writes the document of a plan: all methods ranked, what they hold of a device, why, and what would make one
fit.

`SurveyDocument` is what a recommendation shows; `Estimate`, which a variant's plan has beside it
(estimate.json), says more of the method that is planned. GB are 1e9 bytes; None is what is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ft_dagster.planning.cost.learned import Predicted
from ft_dagster.planning.cost.training_cost import Utilization
from ft_dagster.planning.judging import JudgedOn
from ft_dagster.planning.memory_formula import StorageBytes
from ft_dagster.planning.methods.changes import Change
from ft_dagster.planning.methods.decision import MethodRule, RankedMethod
from ft_dagster.planning.reasons import Reason
from ft_dagster.schema_version import refuse_newer, refuse_newer_fields
from ft_dagster.training.training_figures import PREDICTED_IN_0_1

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class MemoryBytes:
    """Counts the bytes of one device at the highest moment of a step, by what they are; `phase`: which moment
    that is.

    `offloaded`: what the host holds instead, not in `total`. `correction`: learned from finished trainings,
    in `total`; below zero where they took less.
    """

    frozen: int
    trained: int
    gradients: int
    states: int
    activations: int
    temporaries: int
    communication: int
    slack: int
    context: int
    offloaded: int
    phase: str
    total: int
    correction: int

    def of(self, part: str) -> int:
        """Return the bytes of a part by its name."""
        return int(getattr(self, part))


@dataclass(frozen=True)
class RankedRow:
    """Says one method's place in the ranking. Hours and USD are of one training and its evaluation;
    `gpus_needed`: the fewest devices that hold it; `storage_gb`: of all variants of the base;
    `days_to_candidate`: of the machine, for 10 to 20 trainings. To four digits.
    """

    method: str
    fits: bool
    gpus_needed: int | None
    memory_gb_per_gpu: float
    hours: float | None
    cost_usd: float | None
    storage_gb: float
    serving_gpus: int | None
    days_to_candidate: float | None
    warnings: tuple[str, ...]
    rules: tuple[MethodRule, ...]

    @classmethod
    def of(cls, ranked: RankedMethod) -> RankedRow:
        figures, tries = ranked.figures, ranked.figures.experiments
        return cls(
            method=ranked.method,
            fits=ranked.fits,
            gpus_needed=figures.candidate.gpus_needed,
            memory_gb_per_gpu=_rounded(figures.candidate.memory_bytes / 1e9),
            hours=_rounded_or_none(figures.hours),
            cost_usd=_rounded_or_none(figures.usd),
            storage_gb=_rounded(figures.storage.gigabytes),
            serving_gpus=figures.serving.gpus,
            days_to_candidate=_rounded_or_none(tries.middle_days) if tries else None,
            warnings=ranked.warnings,
            rules=ranked.rules,
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RankedRow:
        rules = tuple(MethodRule(**rule) for rule in content["rules"])
        return cls(**{**content, "warnings": tuple(content["warnings"]), "rules": rules})


@dataclass(frozen=True)
class ChangeRow:
    """Names settings (field of the declaration -> value) that together make it fit, and what that costs."""

    settings: Mapping[str, Any]
    memory_gb_per_gpu: float
    hurts: str
    sentence: str

    @classmethod
    def of(cls, change: Change) -> ChangeRow:
        settings = {setting.field: setting.value for setting in change.settings}
        return cls(settings, round(change.bytes_after / 1e9, 2), change.hurts, change.sentence())


@dataclass(frozen=True)
class PlannedRow:
    """Describes what is to be trained: the resolved settings by name, with the reason of each; `learned`:
    what its memory rests on beside the dry run.
    """

    method: Mapping[str, Any]
    training: Mapping[str, Any]
    memory_bytes: MemoryBytes
    learned: str
    reasons: tuple[Reason, ...]

    @property
    def name(self) -> str:
        return str(self.method["name"])

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PlannedRow:
        held = MemoryBytes(**content["memory_bytes"])
        reasons = tuple(Reason(**row) for row in content["reasons"])
        return cls(**{**content, "memory_bytes": held, "reasons": reasons})


@dataclass(frozen=True, kw_only=True)
class SurveyDocument:
    """Holds a survey of all methods. `method`: what is to be trained, None where nothing fits; `recommended`:
    what ranks first and fits.

    `on`: the hardware; `unit`: what its devices are called; `device_bytes`: memory of one. `refused`: method
    -> why the declaration cannot be taught by it. `plan`: what is to be trained; where nothing fits, what
    needs least. `changes`: what would make it fit, the mildest first. `bake_off`: nobody can say beforehand.
    """

    method: str | None
    recommended: str | None
    fits: bool
    bake_off: bool
    notes: tuple[str, ...]
    ranking: tuple[RankedRow, ...]
    on: str
    unit: str
    device_bytes: int | None
    changes: tuple[ChangeRow, ...]
    refused: Mapping[str, str]
    memory_bytes: Mapping[str, MemoryBytes]
    plan: PlannedRow

    @property
    def planned_row(self) -> RankedRow:
        """Return the place in the ranking of what is to be trained."""
        return next(row for row in self.ranking if row.method == self.plan.name)

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = _plain(asdict(self))
        return content


@dataclass(frozen=True, kw_only=True)
class Estimate(SurveyDocument):
    """Is estimate.json. `ranks`: processes; `variants`: declared on this base; `steps`: of the optimizer,
    counted where the mixture was there and is not large (`packed_rows`), else an estimate.

    `utilization`: of the devices' peak, None where no number of them holds it; `storage_usd_per_month`: for
    all variants of the base and the checkpoints of one training; `storage`: bytes on disk of this one;
    `predicted`: what the training's figures are held against; `cross_checks`, `warnings`, `serving`: lines.
    `judged_on`: on how many GPUs it is judged and certified; none on a CPU, and where their memory is not
    known.
    """

    ranks: int
    variants: int
    steps: int
    trainable_parameters: int
    utilization: Utilization | None
    storage_usd_per_month: float
    serving: str
    cross_checks: tuple[str, ...]
    storage: StorageBytes
    predicted: Predicted
    warnings: tuple[str, ...]
    judged_on: tuple[JudgedOn, ...] = ()

    def to_json(self) -> dict[str, Any]:
        foretold = {"predicted": _plain(self.predicted.to_json())}
        whole = {"schema_version": SCHEMA_VERSION, **super().to_json(), **foretold}
        if not self.storage.resume_points_bytes:  # as those wrote it that knew of none
            del whole["storage"]["resume_points_bytes"]
        return whole if self.judged_on else {k: v for k, v in whole.items() if k != "judged_on"}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, file: object = None) -> Estimate:
        """Read what `to_json` wrote, now or in version 0.1. Raises UserError, naming `file`, of a newer
        one.
        """
        refuse_newer(content["schema_version"], SCHEMA_VERSION, file=file)
        plain = {
            name: value for name, value in content.items() if name not in ("schema_version", PREDICTED_IN_0_1)
        }
        lines = {name: tuple(content[name]) for name in ("notes", "cross_checks", "warnings")}
        work, predicted = content["utilization"], content.get("predicted") or content[PREDICTED_IN_0_1]
        with refuse_newer_fields(file):
            return cls(**{
                **plain, **lines,
                "ranking": tuple(RankedRow.from_json(row) for row in content["ranking"]),
                "changes": tuple(ChangeRow(**change) for change in content["changes"]),
                "memory_bytes": {name: MemoryBytes(**held) for name, held in content["memory_bytes"].items()},
                "plan": PlannedRow.from_json(content["plan"]),
                "utilization": None if work is None else Utilization(**work),
                "storage": StorageBytes(**content["storage"]),
                "judged_on": tuple(JudgedOn(**each) for each in content.get("judged_on", ())),
                "predicted": Predicted.from_json(predicted),
            })  # fmt: skip


def _plain(value: Any) -> Any:
    """Return the value with lists for tuples, as JSON has them."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _rounded(value: float) -> float:
    """Round to four digits, since a figure that starts from an assumed utilization has no more."""
    return float(f"{value:.4g}")


def _rounded_or_none(value: float | None) -> float | None:
    return None if value is None else _rounded(value)
