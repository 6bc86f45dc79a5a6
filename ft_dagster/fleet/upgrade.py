"""Previews what this version of the project would make again of what older ones made: for whom, and at what
cost.

A raised stage version changes keys, so a run makes the stage again. So does the end of a stage from which it
was made, and rendering that changed for some rows on some bases; then versions stay. Libraries are recorded
and in no key: another version of them makes nothing again.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from ft_dagster.errors import UserError
from ft_dagster.fleet.device_hours import EVALUATIONS, hours_of
from ft_dagster.fleet.due.retrain_cost import PaidFor, PlannedCost, expected_cost
from ft_dagster.fleet.refresh.from_store import DAMAGE, paid_for, planned_cost, said_of
from ft_dagster.fleet.refresh.shared_state import SharedState
from ft_dagster.fleet_settings import PlatformOrder
from ft_dagster.provenance.manifest import local_environment
from ft_dagster.settings import Settings
from ft_dagster.spec import Declarations, VariantKey, load_variant
from ft_dagster.spec.overrides import write_declared
from ft_dagster.stage_entries import (
    DECLARATION,
    FINE_TUNED_MODEL,
    MODEL_EXPORT,
    made_before,
    version_of,
)
from ft_dagster.store import Artifact, Store, read_head
from ft_dagster.versions.now import difference
from ft_dagster.versions.summary import STAGES
from ft_dagster.versions.version_artifacts import VersionArtifacts
from ft_dagster.workspace.rendered_prompts import OTHER_ROWS, loses_plain_text
from ft_dagster.workspace.stage_version import is_older
from ft_dagster.workspace.workspace import Workspace

# A declaration is frozen anew by every run.
BEFORE_TRAINING = tuple(each.name for each in made_before(FINE_TUNED_MODEL) if each != DECLARATION)
Effect = Literal["trains", "may train", "is judged", "is exported", "same"]
EFFECTS: dict[Effect, str] = {
    "trains": "trains again",
    "may train": "made again, and trains again where that comes out otherwise",
    "is judged": "judged again",
    "is exported": "exported again",
    "same": "nothing",
}


@dataclass(frozen=True)
class UpgradeRow:
    """Describes the upgrade of a variant. `stages`: those whose newest artifact an older version made.
    `rendered`: those whose rows it rendered otherwise, of the stages that kept their version. `hours`, `usd`:
    what a run would take of devices at most; `origin`: what that rests on. `libraries`: name -> version, as
    its model was trained.
    """

    tenant: str
    variant: str
    effect: Effect
    stages: tuple[str, ...]
    hours: float = 0.0
    usd: float = 0.0
    origin: str = ""
    libraries: Mapping[str, str] | None = None
    rendered: tuple[str, ...] = ()


class TenantRow(NamedTuple):
    """Sums the upgrade of a tenant. `effect`: in words."""

    tenant: str
    effect: str
    variants: int
    hours: float
    usd: float


@dataclass(frozen=True)
class UpgradePlan:
    """Holds the upgrade of all. `declared`: all variants that were looked at, by which shares count.
    `damaged`: why others could not be, a line each.
    """

    rows: tuple[UpgradeRow, ...]
    damaged: tuple[str, ...]
    declared: tuple[VariantKey, ...]

    def by_tenant(self) -> list[TenantRow]:
        """Return the tenants in order of name, each one's costliest first."""
        groups: dict[tuple[str, Effect], list[UpgradeRow]] = defaultdict(list)
        for row in self.rows:
            groups[row.tenant, row.effect].append(row)
        found = [
            TenantRow(
                tenant,
                EFFECTS[effect],
                len(rows),
                sum(row.hours for row in rows),
                sum(row.usd for row in rows),
            )
            for (tenant, effect), rows in groups.items()
        ]
        return sorted(found, key=lambda row: (row.tenant, -row.hours, row.effect))

    @property
    def said(self) -> list[str]:
        """Say which stages, by how many variants; and which variants have rows that are rendered
        otherwise.
        """
        counts = Counter(stage for row in self.rows for stage in row.stages)
        raised = [
            f"{stage} is at version {version_of(stage)}: {counts[stage]} variants have an older one"
            for stage in STAGES
            if counts[stage]
        ]
        rendered = [
            f"{row.variant}: rows are rendered otherwise by now ({', '.join(row.rendered)})"
            for row in self.rows
            if row.rendered
        ]
        return [*raised, *rendered]

    @property
    def libraries(self) -> list[str]:
        """Say which libraries are others than models were trained by; these make nothing again."""
        now = local_environment()["libraries"]
        counts = Counter(
            (name, version)
            for row in self.rows
            for name, version in (row.libraries or {}).items()
            if name in now and now[name] != version
        )
        return [
            f"{name} is {now[name]}: {count} models were trained by {version}, and stay as they are"
            for (name, version), count in sorted(counts.items())
        ]

    def to_json(self) -> dict[str, object]:
        return {
            "variants": [asdict(row) for row in self.rows],
            "stages": self.said,
            "libraries": self.libraries,
            "damaged": list(self.damaged),
        }


def plan_upgrade(settings: Settings, tenant: str | None = None) -> UpgradePlan:
    """Plan the upgrade of every declared variant, or a tenant's. One that cannot be read stops no other."""
    declarations = Declarations(settings.project)
    declared = tuple(key for key in declarations if tenant in (None, key.tenant))
    rows, retrains, damaged = list[UpgradeRow](), list[_Retraining](), list[str]()
    shared = SharedState(settings)
    store = shared.store
    for key in declared:
        try:
            row = _row(shared, declarations, store, key)
            if row is not None and row.effect in ("trains", "may train"):
                plan = planned_cost(store, key)
                retrains.append(_Retraining(row, plan, paid_for(store, key, plan)))
            elif row is not None:
                rows.append(row)
        except (UserError, *DAMAGE) as error:
            damaged.append(f"{key}: {said_of(error)}")
    paid = [each.paid for each in retrains if each.paid is not None]
    rows += [_priced(each, paid) for each in retrains]
    return UpgradePlan(tuple(sorted(rows, key=lambda row: row.variant)), tuple(damaged), declared)


class _Retraining(NamedTuple):
    row: UpgradeRow
    plan: PlannedCost | None
    paid: PaidFor | None


def _row(shared: SharedState, declarations: Declarations, store: Store, key: VariantKey) -> UpgradeRow | None:
    """Return the row without the cost of a training; None where nothing was made of the variant yet."""
    read = {stage: read_head(store, key.prefix, stage) for stage in STAGES}
    heads = {stage: head for stage, head in read.items() if head is not None}
    if not heads:
        return None
    older = tuple(stage for stage, head in heads.items() if is_older(head))
    rendered = tuple(_rendered_otherwise(shared, declarations, key, heads))
    effect = _effect((*older, *rendered))
    wanted = {"is judged": (*EVALUATIONS, MODEL_EXPORT.name), "is exported": (MODEL_EXPORT.name,)}.get(
        effect, ()
    )
    hours = sum(hours_of(head) for stage, head in heads.items() if stage in wanted)
    origin = "as it took before" if hours else ""
    libraries = _libraries(heads.get(FINE_TUNED_MODEL.name))
    return UpgradeRow(key.tenant, str(key), effect, older, hours, 0.0, origin, libraries, rendered)


def _rendered_otherwise(
    shared: SharedState, declarations: Declarations, key: VariantKey, heads: Mapping[str, Artifact]
) -> Iterator[str]:
    """Return the stages, of those that kept their version, whose rows a run would render otherwise; none
    where that cannot be known: the base is gone, say, or the declaration is wrong.
    """
    workspace = Workspace(shared.settings, key, looking=True, opened=shared.store)
    with suppress(UserError):
        declared = declarations.declared(key)
        causes = difference(
            workspace, declared, VersionArtifacts(heads, heads, ()), shared.of(declared), exact=True
        )
        yield from (each.what for each in causes if each.words == OTHER_ROWS.format(stage=each.what))


def keep_rendering(settings: Settings, key: VariantKey) -> Path | None:
    """Declare `data.render: plain` for a variant whose prompts with completions were trained as plain text,
    and would be no longer; comments stay. Its file, or None where nothing is to be kept. Raises UserError.
    """
    declared = load_variant(settings.project, key)
    if not loses_plain_text(Workspace(settings, key, looking=True), declared.spec.data.render):
        return None
    return write_declared(settings.project, declared, {"data.render": "plain"})


def _priced(each: _Retraining, paid: Iterable[PaidFor]) -> UpgradeRow:
    cost = expected_cost(each.plan, () if each.paid is None else (each.paid,), paid)
    return replace(each.row, hours=cost.amount.hours, usd=cost.amount.usd, origin=cost.origin)


def _effect(older: Sequence[str]) -> Effect:
    """Return the dearest effect of raised versions."""
    if FINE_TUNED_MODEL.name in older:
        return "trains"
    if any(stage in older for stage in BEFORE_TRAINING):
        return "may train"
    if any(stage in older for stage in EVALUATIONS):
        return "is judged"
    return "is exported" if MODEL_EXPORT.name in older else "same"


def _libraries(model: Artifact | None) -> dict[str, str] | None:
    return None if model is None else dict(model.predicate["environment"]["libraries"])


def canaries(keys: Iterable[VariantKey], share: float) -> list[VariantKey]:
    """Choose a share of the variants, one of each tenant before a second of any, in an order that looks like
    chance and is the same each time: a larger share has all of a smaller one.
    """
    tenants: dict[str, list[VariantKey]] = defaultdict(list)
    for key in sorted(keys, key=lambda key: _draw(str(key))):
        tenants[key.tenant].append(key)
    turns = sorted(
        ((turn, _draw(tenant), key) for tenant, own in tenants.items() for turn, key in enumerate(own)),
    )
    return [key for *_, key in turns][: _part(share, len(turns))]


def _part(share: float, whole: int) -> int:
    """Return that share, rounded up, whatever a float makes of it: 0.07 of 100 are 7."""
    return math.ceil(round(share * whole, 9))


def order_for(plan: UpgradePlan, share: float, days: float, now: datetime) -> PlatformOrder | None:
    """Return an order to the fleet for those of a share of all variants that are not as this version makes
    them; None where there are none.
    """
    chosen = set(map(str, canaries(plan.declared, share)))
    wanted = tuple(row.variant for row in plan.rows if row.variant in chosen and row.effect != "same")
    if not wanted:
        return None
    return PlatformOrder(
        name=f"upgrade-{now:%Y%m%d}-{_part(share, 100)}",
        reason=f"made by an older version; {100 * share:.3g}% of the fleet",
        given=now.replace(microsecond=0),
        deadline=now.replace(microsecond=0) + timedelta(days=days),
        variants=wanted,
    )


def as_yaml(order: PlatformOrder) -> str:
    """Return the order as it stands in ft_dagster.yaml, beside what is there of `fleet`."""
    content = {"fleet": {"orders": [order.model_dump(mode="json")]}}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _draw(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
