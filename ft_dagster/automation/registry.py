"""Shows releases in the model registry, after each release, promotion and rollback that Dagster knows of."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import dagster as dg

from ft_dagster.assets.partitions import Graph
from ft_dagster.errors import UserError
from ft_dagster.export.registry import push_releases
from ft_dagster.fleet.events.outbox import wait_after
from ft_dagster.resources import TENANTS
from ft_dagster.resources.tenants import Tenants
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import RELEASE
from ft_dagster.stages.judging.may_serve import unserved_of

MOST_RELEASES = 500  # that one tick reads
PUSH_SECONDS = 20.0  # of a tick; the rest is the next one's


@dataclass(frozen=True)
class RegistryTry:
    """Is a variant that the registry does not show as its log has it. `tries`: that failed; `next`: seconds
    since 1970; `why` the last one did.
    """

    tries: int = 0
    next: float = 0.0
    why: str = ""


@dataclass(frozen=True)
class RegistryCursor:
    """Marks how far releases were pushed. `releases`: id of the newest event that was read; `waiting`: by
    variant.
    """

    releases: int = 0
    waiting: Mapping[str, RegistryTry] = field(default_factory=dict)

    @classmethod
    def parse(cls, cursor: str | None) -> "RegistryCursor":
        """Read a cursor; what is none means the beginning, from which all that was ever released is
        pushed.
        """
        try:
            content = json.loads(cursor or "")
            waiting = {key: RegistryTry(**one) for key, one in content["waiting"].items()}
            return cls(int(content["releases"]), waiting)
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def __str__(self) -> str:
        return json.dumps(asdict(self))


def registered_releases(graph: Graph) -> dg.SensorDefinition:
    """Make the sensor `registered_releases`."""

    @dg.sensor(
        name=graph.name("registered_releases"),
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Brings the model registry (registry.mlflow) to the release logs; failures are repeated",
        required_resource_keys={graph.name(TENANTS)},
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        tenants: Tenants = getattr(context.resources, graph.name(TENANTS))
        seen = RegistryCursor.parse(context.cursor)
        try:
            settings = tenants.settings()
        except UserError as error:
            context.log.error(str(error))
            return dg.SkipReason(str(error))
        now = register_changed(context.instance, settings, seen, datetime.now(UTC), graph)
        context.update_cursor(str(now))
        for key, waits in now.waiting.items():
            if waits.why:
                context.log.error(f"{key} is not in the registry as its log has it: {waits.why}")
        return dg.SkipReason(f"variants that wait for the registry: {len(now.waiting)}")

    return sensor


def register_changed(
    instance: dg.DagsterInstance, settings: Settings, seen: RegistryCursor, now: datetime, graph: Graph
) -> RegistryCursor:
    """Push what was released, promoted or rolled back since, and what waits; returns what is left.

    After one that failed the others wait for the next tick: a registry that is down is asked once.
    """
    asked = dg.AssetRecordsFilter(graph.key(RELEASE.name), after_storage_id=seen.releases or None)
    events = instance.fetch_materializations(asked, MOST_RELEASES, ascending=True).records
    newest = max((event.storage_id for event in events), default=seen.releases)
    changed = {event.partition_key for event in events if event.partition_key is not None}
    waiting = {**seen.waiting, **{key: RegistryTry() for key in sorted(changed)}}
    end, asks = time.monotonic() + PUSH_SECONDS, unserved_of(settings)
    for key in [key for key, one in waiting.items() if one.next <= now.timestamp()]:
        try:
            push_releases(settings, VariantKey.parse(key), asks)
        except UserError as error:
            tries = waiting[key].tries + 1
            waiting[key] = RegistryTry(tries, (now + wait_after(tries)).timestamp(), str(error))
            break
        del waiting[key]
        if time.monotonic() > end:
            break
    return RegistryCursor(newest, waiting)
