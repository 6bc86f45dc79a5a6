"""Sums what trainings took, and what prepares, judges and exports them, by the manifests of the store, beside
what plans estimated.

Each artifact is counted once, when it was made: a run that reuses it takes nothing. A training that broke off
leaves no manifest, and is not in here. Dollars are hours times today's price of the device (gpus.yaml),
estimated ones too, so that both are of one price.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from statistics import mean
from typing import Any, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.fleet.device_hours import (
    EVALUATIONS,
    PREPARATIONS,
    TAKE_DEVICES,
    computed,
    devices_of,
    hours_of,
    made,
)
from ft_dagster.lineage.entry import RELEASE
from ft_dagster.lineage.graph import ListedGraph, input_of
from ft_dagster.lineage.release import history
from ft_dagster.planning.hardware.catalogue import Catalogue
from ft_dagster.report.figures import ABSENT
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import EVALUATION, FINE_TUNED_MODEL, MODEL_EXPORT, TRAINING_PLAN
from ft_dagster.store import SHARED, Artifact, Store, tenant_name
from ft_dagster.store.contents import contents_of
from ft_dagster.training.training_figures import PREDICTED_IN_0_1, TrainingFigures

STAGES = frozenset((TRAINING_PLAN.name, *TAKE_DEVICES))
WITHOUT_GPU = "CPU"  # how names of devices begin that are none
UNRELEASED, BASE = "not released", "its base"


class CostItem(NamedTuple):
    """Holds what one artifact took. `hours`: of its devices together. `device`: their name, empty where it is
    not known; `price`: dollars an hour of one. `weights`: digest of what it trained, judged or exported.

    Of a training alone: `planned`, hours that its plan estimated of it and its evaluation (None: not said);
    `outcome`: pass where its gate let it pass, else what that found, "" where nothing judged it; `judged`:
    how many evaluations it had.
    """

    at: datetime
    tenant: str
    variant: str | None
    stage: str
    hours: float
    device: str = ""
    price: float | None = None
    weights: str | None = None
    planned: float | None = None
    outcome: str = ""
    judged: int = 0


class CostsRead(NamedTuple):
    """Reports what was read. `manifests`: how many; `damaged`: those that could not be, a line each."""

    items: tuple[CostItem, ...]
    manifests: int
    damaged: tuple[str, ...]


@dataclass(frozen=True)
class CostRow:
    """Sums the costs of one name. `trainings`: how many, and of them those that their gate let pass
    (`passed`: verdicts that begin with this word), refused (`failed`) or held back undecided, and those that
    nothing judged; `judged_again`: evaluations that reused one of them.

    Hours are those of one GPU, without any of a training by the clock (`cpu_hours` of `hours`): `planned`,
    estimated of `trainings`; and what they, preparations (probes, texts of a base), evaluations and exports
    took. `unpriced_hours`: those of `hours` for which no price is known, and no dollars are counted;
    `unpriced_on`: the devices that they were on.
    """

    name: str
    trainings: int = 0
    passed: int = 0
    failed: int = 0
    undecided: int = 0
    not_judged: int = 0
    judged_again: int = 0
    planned_hours: float = 0.0
    hours: float = 0.0
    training_hours: float = 0.0
    evaluation_hours: float = 0.0
    preparation_hours: float = 0.0
    export_hours: float = 0.0
    cpu_hours: float = 0.0
    unpriced_hours: float = 0.0
    planned_usd: float = 0.0
    usd: float = 0.0
    unpriced_on: tuple[str, ...] = ()

    @property
    def usd_shown(self) -> tuple[str, str]:
        """Return the estimated and the actual dollars; "-" where hours have no price and no dollars are
        counted.
        """
        sums = (self.planned_usd, self.usd)
        planned, actual = (ABSENT if self.unpriced_hours and not usd else shown_usd(usd) for usd in sums)
        return planned, actual

    @property
    def unpriced(self) -> str:
        """Say which hours have no price, and how their devices get one; nothing where all have."""
        if not self.unpriced_hours:
            return ""
        devices = " and ".join(name or "devices whose name is not known" for name in self.unpriced_on)
        return (
            f"no price is known for {devices} ({shown_hours(self.unpriced_hours)} h): give `usd_per_hour` in "
            "gpus.yaml, to a card whose `driver` matches the name"
        )


class CostPeriod(NamedTuple):
    """Runs from `since` on and before `until`; None: without an end."""

    since: datetime | None = None
    until: datetime | None = None

    def has(self, at: datetime) -> bool:
        return (self.since is None or self.since <= at) and (self.until is None or at < self.until)


def shown_hours(hours: float) -> str:
    """Return hours to three digits."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def shown_usd(usd: float) -> str:
    """Return US dollars, with cents below a hundred."""
    return f"{usd:,.0f}" if usd >= 100 else f"{usd:.2f}"


def read_costs(store: Store, catalogue: Catalogue) -> CostsRead:
    """Read every manifest of a plan, a training, and what prepares, judges and exports it, each once; also of
    what retention removed since.
    """
    keyed = contents_of(store, STAGES).keyed.values()
    made_of: dict[str, list[Artifact]] = defaultdict(list)
    for each in keyed:
        for artifact in each.committed:
            made_of[artifact.place.stage].append(artifact)
    damaged = tuple(str(each.damaged) for each in keyed if each.damaged is not None)
    count = sum(len(artifacts) for artifacts in made_of.values())
    return CostsRead(cost_items(made_of, catalogue), count + len(damaged), damaged)


def cost_items(made_of: Mapping[str, Sequence[Artifact]], catalogue: Catalogue) -> tuple[CostItem, ...]:
    """Return the costs of artifacts by their stage, plans among them: of a whole store, or all of one
    variant.
    """
    graph = ListedGraph(chain.from_iterable(made_of.values()))
    trainings = [
        (model.manifest, _training(model, graph, catalogue))
        for model in made_of.get(FINE_TUNED_MODEL.name, ())
    ]
    trained, by_manifest = [item for _, item in trainings], dict(trainings)
    devices = _devices(trained)
    others = [
        _other(artifact, _weights(graph, artifact, by_manifest), devices, catalogue)
        for stage in TAKE_DEVICES
        if stage != FINE_TUNED_MODEL.name
        for artifact in computed(made_of.get(stage, ()))
    ]
    return (*trained, *others)


def cost_rows(
    items: Iterable[CostItem], name_of: Callable[[CostItem], str], *, dearest_first: bool = True
) -> list[CostRow]:
    """Return a row for each name; the dearest first (by dollars, then hours), else in order of name."""
    parts: dict[str, list[CostItem]] = defaultdict(list)
    for item in items:
        parts[name_of(item)].append(item)
    rows = [cost_row(name, parts[name]) for name in sorted(parts)]
    return sorted(rows, key=lambda row: (-row.usd, -row.hours)) if dearest_first else rows


def cost_row(name: str, items: Sequence[CostItem]) -> CostRow:
    """Return the sum of items."""
    trained = [item for item in items if item.stage == FINE_TUNED_MODEL.name]
    outcomes = Counter(item.outcome for item in trained)

    def hours(chosen: Iterable[CostItem]) -> float:
        return sum(item.hours for item in chosen)

    return CostRow(
        name,
        trainings=len(trained),
        passed=outcomes["pass"],
        failed=outcomes["fail"],
        undecided=outcomes["undecided"],
        not_judged=outcomes[""],
        judged_again=sum(max(0, item.judged - 1) for item in trained),
        planned_hours=sum(item.planned or 0.0 for item in trained),
        hours=hours(items),
        training_hours=hours(trained),
        evaluation_hours=hours(item for item in items if item.stage in EVALUATIONS),
        preparation_hours=hours(item for item in items if item.stage in PREPARATIONS),
        export_hours=hours(item for item in items if item.stage == MODEL_EXPORT.name),
        cpu_hours=hours(item for item in items if item.device.startswith(WITHOUT_GPU)),
        unpriced_hours=hours(item for item in items if item.price is None),
        planned_usd=sum((item.planned or 0.0) * (item.price or 0.0) for item in trained),
        usd=sum(item.hours * (item.price or 0.0) for item in items),
        unpriced_on=tuple(sorted({item.device for item in items if item.price is None and item.hours})),
    )


def versions_in(store: Store, items: Iterable[CostItem]) -> tuple[dict[tuple[str, str], int], list[str]]:
    """Return (variant, digest of weights) -> version, by the release logs of the variants of these items; and
    why others cannot be read, a line each.
    """
    versions: dict[tuple[str, str], int] = {}
    wrong = list[str]()
    for key in sorted({item.variant for item in items if item.variant is not None}):
        try:
            entries = history(store, VariantKey.parse(key).prefix)
        except UserError as error:
            wrong.append(str(error))
            continue
        versions |= {(key, each.weights): each.version for each in entries if each.action == RELEASE}
    return versions, wrong


def version_name(item: CostItem, versions: Mapping[tuple[str, str], int]) -> str:
    """Name the version that a cost counts for: what asked the base alone counts for all of the variant's."""
    if item.variant is None:
        return item.tenant
    if item.weights is None:
        return f"{item.variant}, {BASE}"
    version = versions.get((item.variant, item.weights))
    return f"{item.variant}, {UNRELEASED}" if version is None else f"{item.variant} v{version}"


def _training(model: Artifact, graph: ListedGraph, catalogue: Catalogue) -> CostItem:
    said = TrainingFigures.of(model).predicted or _predicted(input_of(graph, model, TRAINING_PLAN.name))
    device, devices = str(said.get("hardware", "")), said.get("layout", {}).get("gpus", 1)
    judged = sorted(graph.made_of(model, EVALUATION.name), key=made)
    found = judged[-1].figures.get("verdict", {}) if judged else {}
    outcome = "" if not found else "pass" if found.get("passed") else found.get("outcome", "fail")
    return _item(
        model,
        hours=hours_of(model) * devices,
        device=device,
        price=_price(catalogue, device),
        weights=model.digest,
        planned=None if said.get("hours") is None else said["hours"] * devices,
        outcome=outcome,
        judged=len(list(computed(judged))),
    )


def _predicted(plan: Artifact | None) -> Mapping[str, Any]:
    if plan is None:
        return {}
    return plan.figures.get("predicted") or plan.figures.get(PREDICTED_IN_0_1) or {}


def _devices(trained: Iterable[CostItem]) -> dict[str, str]:
    """Return variant or tenant -> the device that its newest training had; of what is shared, that of the
    newest.
    """
    newest: dict[str, str] = {}
    for item in sorted(trained, key=lambda item: item.at):
        for whose in filter(None, (item.variant, item.tenant, SHARED)):
            newest[whose] = item.device
    return newest


def _weights(graph: ListedGraph, artifact: Artifact, trainings: Mapping[str, CostItem]) -> CostItem | None:
    """Return the training of the weights that something was made of."""
    weights = input_of(graph, artifact, FINE_TUNED_MODEL.name)
    return None if weights is None else trainings.get(weights.manifest)


def _other(
    artifact: Artifact,
    of: CostItem | None,
    devices: Mapping[str, str],
    catalogue: Catalogue,
) -> CostItem:
    """Cost what is no training: on the device of the training that it is of, else of the newest of the
    variant or its tenant.
    """
    weights, variant = artifact.inputs.get(FINE_TUNED_MODEL.name), artifact.predicate["variant"]
    newest = devices.get(variant or "", devices.get(_tenant(artifact), ""))
    device = newest if of is None else of.device
    if artifact.figures.get("measured", {}).get("device") == "cpu" and not device.startswith(WITHOUT_GPU):
        device = WITHOUT_GPU
    return _item(
        artifact,
        hours=hours_of(artifact) * devices_of(artifact),
        device=device,
        price=_price(catalogue, device),
        weights=weights,
    )


def _item(artifact: Artifact, **known: Any) -> CostItem:
    at = made(artifact).astimezone(UTC)
    return CostItem(at, _tenant(artifact), artifact.predicate["variant"], artifact.place.stage, **known)


def _price(catalogue: Catalogue, device: str) -> float | None:
    """Return dollars an hour, None where it is not known; of unlike GPUs of a host (`A + B`) their mean."""
    cards = [catalogue.named_by_driver(name) for name in device.split(" + ")]
    prices = [None if card is None else card.usd_per_hour for card in cards]
    known = [price for price in prices if price is not None]
    return mean(known) if len(known) == len(prices) else None


def _tenant(artifact: Artifact) -> str:
    variant = artifact.predicate["variant"]
    return SHARED if variant is None else tenant_name(VariantKey.parse(variant).tenant)
