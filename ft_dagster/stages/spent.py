"""What a variant has cost, as far as the store knows: by the manifests of its trainings and evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.planning.estimate import Estimate
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages.summary import newest_plan
from ft_dagster.store import Artifact, Place, Store
from ft_dagster.store.artifacts import Removed, generations
from ft_dagster.training.training_figures import TrainingFigures

MODEL = "fine_tuned_model"
ASKED = ("base_evaluation", "evaluation")
TIMES = ("seconds", "load_seconds")  # of an evaluation


class CostToDate(NamedTuple):
    """`hours`: of devices; `usd`: at the price of the newest plan, None without one."""

    hours: float
    usd: float | None


def spent(settings: Settings, key: VariantKey) -> CostToDate:
    """Also on what retention has removed since; not on what was cut off, nor on scores that are shared with
    other tenants. Raises UserError for a manifest that cannot be read.
    """
    store = settings.open_store()
    hours = sum(_hours(store, key.prefix))
    price = _price(settings, key)
    return CostToDate(hours, None if price is None else hours * price)


def _hours(store: Store, prefix: str) -> Iterator[float]:
    for made in _made(store, prefix, MODEL):
        figures = TrainingFigures.of(made)
        devices = ((figures.predicted or {}).get("layout") or {}).get("gpus", 1)
        yield devices * max(figures.seconds, figures.training_seconds) / 3600
    for stage in ASKED:
        for made in _made(store, prefix, stage):
            yield sum(made.figures.get(name, 0.0) for name in TIMES) / 3600


def _made(store: Store, prefix: str, stage: str) -> Iterator[Artifact]:
    """Every artifact of a stage that was ever committed."""
    for key in store.names(f"{prefix}/{stage}"):
        for one in generations(store, Place(prefix, stage, key)):
            yield one.artifact if isinstance(one, Removed) else one


def _price(settings: Settings, key: VariantKey) -> float | None:
    try:
        plan = newest_plan(settings, key)
    except UserError:
        return None
    return None if plan is None else price_of(plan)


def price_of(plan: Estimate) -> float | None:
    """US dollars of a device's hour, as a plan counted; None where it did not."""
    if plan.method is None:
        return None
    row, devices = plan.planned_row, plan.predicted.layout.gpus
    return row.cost_usd / (row.hours * devices) if row.hours and row.cost_usd is not None else None
