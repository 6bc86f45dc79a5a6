"""Reads from manifests the time by the clock that an artifact took on a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from ft_dagster.stage_entries import ANSWERS_OF, FINE_TUNED_MODEL, names_of
from ft_dagster.store import Artifact
from ft_dagster.training.training_figures import TrainingFigures

EVALUATIONS = names_of(lambda entry: entry.device_use == "evaluation")
PREPARATIONS = names_of(lambda entry: entry.device_use == "preparation")
TAKE_DEVICES = names_of(lambda entry: entry.device_use is not None)
COMPUTE_NOTHING = frozenset(
    names_of(lambda entry: not (entry.on_demand or entry.device_use or entry.asks_for_devices))
)
SECONDS = ("seconds", "load_seconds", "seconds_writing", "seconds_certifying")  # of all but trainings


def may_compute(assets: Iterable[str]) -> bool:
    """Say whether a run of these assets may need a device."""
    return not COMPUTE_NOTHING.issuperset(assets)


def hours_of(artifact: Artifact) -> float:
    """Sum the hours; 0 of a stage that takes no device."""
    if artifact.place.stage == FINE_TUNED_MODEL.name:
        figures = TrainingFigures.of(artifact)
        return max(figures.seconds, figures.training_seconds) / 3600
    if artifact.place.stage not in TAKE_DEVICES:
        return 0.0
    return sum(float(artifact.figures.get(name) or 0.0) for name in SECONDS) / 3600


def computed(artifacts: Iterable[Artifact]) -> Iterator[Artifact]:
    """Return the artifacts that devices computed, without evaluations that judged the answers of another
    again: its hours are theirs.
    """
    return (each for each in artifacts if ANSWERS_OF not in each.figures)


def devices_of(artifact: Artifact) -> int:
    """Return how many devices it took at once, a training aside, whose plan says it."""
    return int(artifact.figures.get("devices") or 1)


def made(artifact: Artifact) -> datetime:
    """Return when an artifact was committed, in UTC."""
    return datetime.fromisoformat(artifact.predicate["created"])
