"""Learns from a tenant's finished trainings for its next plan: their memory and speed against what was
predicted.

Only trainings of the same shape count: the same base, method, kind of device and layout. Bytes are of one
device (on a CPU, of one process above what its imports take).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, NamedTuple

from ft_dagster.planning.layout import Layout
from ft_dagster.training.training_figures import TrainingFigures


@dataclass(frozen=True)
class Predicted:
    """Holds what a plan estimates of its training.

    `memory_bytes`: by the dry run, before any correction, of what will be measured: a GPU's allocator, or a
    process above its imports. `base`: digest of the base model; `hardware`: name of the device; `peak_flops`:
    of one device. `hours`: with the evaluation; `training_hours`: of the steps alone (not of plans of 0.1);
    `probe_hours`: beside both, of the short trainings that the plan goes by, or is to go by.
    """

    base: str
    hardware: str
    layout: Layout
    memory_bytes: int
    peak_flops: float | None
    hours: float | None
    training_hours: float | None = None
    probe_hours: float | None = None

    def usd(self, per_hour: float | None) -> float | None:
        """Return the USD of the probe, of the training, and of its evaluation, which takes one device, at a
        price of a device; None where that or a number of hours is not known.
        """
        if per_hour is None or self.hours is None or self.training_hours is None:
            return None
        judging = self.hours - self.training_hours
        return (self.training_hours * self.layout.gpus + judging) * per_hour + self.probe_usd(per_hour)

    def probe_usd(self, per_hour: float | None) -> float:
        """Return the USD of the probe alone; 0 without one, or a price."""
        return (self.probe_hours or 0.0) * self.layout.gpus * (per_hour or 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as a plan of 0.1 had it, where nothing is known of the steps alone or nothing
        is tried.
        """
        content = asdict(self)
        later = ("training_hours", "probe_hours")
        return {name: value for name, value in content.items() if name not in later or value is not None}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Predicted:
        return cls(**{**content, "layout": Layout(**content["layout"])})


@dataclass(frozen=True)
class Finished:
    """Compares a finished training with what was predicted. None: not measured."""

    predicted: Predicted
    memory_bytes: int | None
    utilization: float | None  # of the peak, by the counted FLOPs of its steps
    tokens_per_second: float | None = None

    @property
    def excess(self) -> int | None:
        """Return the bytes measured beyond those predicted."""
        return None if self.memory_bytes is None else self.memory_bytes - self.predicted.memory_bytes


class PlannedWork(NamedTuple):
    """Describes a method that is planned: the digest of its base, its layout, FLOPs a position as counted,
    and positions computed for each token.
    """

    base: str
    layout: Layout
    flops_per_token: float
    padding: float = 1.0


@dataclass(frozen=True)
class Correction:
    """Says what is added to a dry run's bytes, and what that rests on.

    Added and not multiplied: what a dry run does not see is mostly what libraries load on their first use and
    what an allocator keeps, which does not grow with the model.
    """

    added: int = 0
    sentence: str = "by the dry run alone: no finished training of this shape is known"


def finished_training(figures: TrainingFigures) -> Finished | None:
    """Read a finished training from the figures of a fine_tuned_model; None for one that was planned without
    a forecast.
    """
    if not figures.predicted:
        return None
    predicted = Predicted.from_json(figures.predicted)
    utilization = _utilization(figures, predicted)
    return Finished(predicted, figures.held_bytes, utilization, figures.tokens_per_second)


def memory_correction(known: Iterable[Finished], base: str, hardware: str, layout: Layout) -> Correction:
    """Return the median of the trainings of this shape, of those with the same rows and length if there are
    any.
    """
    alike = [
        one
        for one in known
        if (one.predicted.base, one.predicted.hardware) == (base, hardware)
        and _shape(one.predicted.layout) == _shape(layout)
    ]
    same = [one for one in alike if one.predicted.layout == layout]
    found = sorted(one.excess for one in same or alike if one.excess is not None)
    if not found:
        return Correction()
    middle = round(median(found))
    count = f"{len(found)} finished training{'s' if len(found) > 1 else ''} of this shape"
    which = "" if same else ", at another micro-batch or length,"
    more = f"{abs(middle) / 1e6:,.0f} MB {'more' if middle >= 0 else 'less'} than the dry run, which is added"
    spread = f"; they lay {(found[-1] - found[0]) / 1e6:,.0f} MB apart" if len(found) > 1 else ""
    return Correction(middle, f"{count}{which} took {more}{spread}")


def utilizations(
    known: Iterable[Finished], hardware: str, planned: Mapping[str, PlannedWork] | None = None
) -> dict[str, float]:
    """Return method -> the median share of the peak that its trainings reached on this hardware.

    `planned`: method -> what is to be trained by it. Where the same base was trained in the same layout, its
    tokens a second count, at the FLOPs a token that are planned: the hours are then those that it took.
    """
    same, by_method = dict[str, list[float]](), dict[str, list[float]]()
    for one in known:
        method, peak = one.predicted.layout.method, one.predicted.peak_flops
        if one.predicted.hardware != hardware or one.utilization is None:
            continue
        by_method.setdefault(method, []).append(one.utilization)
        work = (planned or {}).get(method)
        alike = work is not None and (one.predicted.base, one.predicted.layout) == (work.base, work.layout)
        if work is not None and alike and one.tokens_per_second and peak:
            flops = work.padding * work.flops_per_token
            reached = one.tokens_per_second * flops / (work.layout.gpus * peak)
            same.setdefault(method, []).append(reached)
    return {method: median(values) for method, values in (by_method | same).items()}


def _shape(layout: Layout) -> tuple[Any, ...]:
    return (
        layout.method,
        layout.gradient_checkpointing,
        layout.zero_stage,
        layout.offload,
        layout.gpus,
    )


def _utilization(figures: TrainingFigures, predicted: Predicted) -> float | None:
    flops, seconds = figures.flops or figures.flops_estimate, figures.training_seconds
    if not flops or not seconds or not predicted.peak_flops:
        return None
    return float(flops / (seconds * predicted.layout.gpus * predicted.peak_flops))
