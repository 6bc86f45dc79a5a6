"""Shows figures of the fleet as Prometheus metrics: counts, hours and dollars, never a row's text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ft_dagster.fleet.due.costs import CostRow
from ft_dagster.stage_entries import DeviceUse

OUTCOMES = ("passed", "failed", "undecided", "not_judged")
PARTS = get_args(DeviceUse)
Samples = Iterable[tuple[tuple[str, ...], float]]  # values of the labels, and the figure


@dataclass(frozen=True)
class FleetFigures:
    """Holds the figures of a scrape. `costs`: one a tenant. `variants`: state -> how many; `failures`: tenant
    -> runs of its variants that failed since one came to a verdict; `runs`: (tenant, status) -> how many are
    not finished; `devices`: state -> how many of this host; `waiting`: programs in line for them; `untold`:
    target -> events that wait. `at`: seconds since 1970; `seconds`: that it took; `failed`: whether that was
    the newest that could be read, and the try after it failed.
    """

    costs: tuple[CostRow, ...] = ()
    damaged: int = 0
    variants: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    runs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    devices: Mapping[str, int] = field(default_factory=dict)
    waiting: int = 0
    untold: Mapping[str, int] = field(default_factory=dict)
    at: float = 0.0
    seconds: float = 0.0
    failed: bool = False


class FleetCollector(Collector):
    """Gives a scrape the figures that were set last, so that no scrape waits until they are read."""

    def __init__(self, figures: FleetFigures) -> None:
        self.figures = figures

    def collect(self) -> Iterator[Metric]:
        yield from families(self.figures)


def as_text(figures: FleetFigures) -> str:
    """Return the figures in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(FleetCollector(figures))
    return generate_latest(registry).decode()


def families(figures: FleetFigures) -> Iterator[Metric]:
    """Yield each metric with its samples."""
    yield from _of_costs(figures.costs)
    yield _gauge("variants", "Variants by state", ["state"], _of(figures.variants))
    failed = "Runs that failed since one came to a verdict"
    yield _gauge("failures", failed, ["tenant"], _of(figures.failures))
    yield _gauge("runs", "Runs that are not finished", ["tenant", "status"], figures.runs.items())
    yield _gauge("devices", "Devices of this host, or shares of them", ["state"], _of(figures.devices))
    yield _gauge("devices_waiting", "Programs in line for devices", [], [((), figures.waiting)])
    untold = "Events that a target has not been told"
    yield _gauge("events_waiting", untold, ["target"], _of(figures.untold))
    yield _gauge("damaged_manifests", "Manifests that could not be read", [], [((), figures.damaged)])
    yield _gauge("read_timestamp_seconds", "When these figures were read", [], [((), figures.at)])
    yield _gauge("read_seconds", "How long that took", [], [((), figures.seconds)])
    yield _gauge("read_failed", "1 where they could not be read anew", [], [((), figures.failed)])


def _of_costs(costs: Iterable[CostRow]) -> Iterator[Metric]:
    hours = [((row.name, part), getattr(row, f"{part}_hours")) for row in costs for part in PARTS]
    yield _counter("cost_hours", "Device hours taken", ["tenant", "part"], hours)
    yield _counter("cost_usd", "US dollars of these", ["tenant"], [((row.name,), row.usd) for row in costs])
    planned = [((row.name,), row.planned_hours) for row in costs]
    yield _counter("planned_hours", "Device hours that plans estimated", ["tenant"], planned)
    dollars = [((row.name,), row.planned_usd) for row in costs]
    yield _counter("planned_usd", "US dollars of these", ["tenant"], dollars)
    unpriced = [((row.name,), row.unpriced_hours) for row in costs]
    yield _counter("unpriced_hours", "Device hours without a known price", ["tenant"], unpriced)
    trainings = [((row.name, outcome), getattr(row, outcome)) for row in costs for outcome in OUTCOMES]
    yield _counter("trainings", "Trainings by what their gate made of them", ["tenant", "outcome"], trainings)


def _of(counts: Mapping[str, int]) -> Samples:
    return [((name,), count) for name, count in counts.items()]


def _gauge(name: str, said: str, labels: list[str], values: Samples) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"ft_dagster_{name}", said, labels=labels)
    for given, value in sorted(values):
        family.add_metric(list(given), value)
    return family


def _counter(name: str, said: str, labels: list[str], values: Samples) -> CounterMetricFamily:
    family = CounterMetricFamily(f"ft_dagster_{name}", said, labels=labels)
    for given, value in sorted(values):
        family.add_metric(list(given), value)
    return family
