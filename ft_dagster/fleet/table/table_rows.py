"""Defines a variant's row in the fleet's table: its columns, and what they hold.

Times are seconds since 1970, what has parts is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from ft_dagster.fleet.due.reasons import News, VariantState
from ft_dagster.fleet.due.retrain_cost import Amount, PaidFor, RetrainCost
from ft_dagster.fleet.table.version import KnownVersion
from ft_dagster.spec import VariantKey
from ft_dagster.spec.variant import RetrainSpec

METADATA = sa.MetaData()
VARIANTS = sa.Table(
    "ft_dagster_fleet_variants",
    METADATA,
    sa.Column("key", sa.String(61), primary_key=True),
    sa.Column("parent", sa.String(61), index=True),
    sa.Column("stamp", sa.Text, nullable=False),
    sa.Column("edited", sa.Float, nullable=False),
    sa.Column("learnt", sa.Boolean, nullable=False, index=True),
    sa.Column("next_look", sa.Float, index=True),
    sa.Column("known_since", sa.Float, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("served", sa.Float),
    sa.Column("renewed", sa.Float),
    sa.Column("running", sa.Boolean, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("failed_at", sa.Float),
    sa.Column("failure", sa.Text, nullable=False),
    sa.Column("fruitless", sa.Integer, nullable=False),
    sa.Column("fruitless_at", sa.Float),
    sa.Column("broken", sa.Text),
    sa.Column("retired", sa.Boolean, nullable=False),
    sa.Column("retrain", sa.Text, nullable=False),
    sa.Column("cost", sa.Text, nullable=False),
    sa.Column("paid", sa.Text, nullable=False),
    sa.Column("news", sa.Text, nullable=False),
    sa.Column("asked", sa.Text, nullable=False),
    sa.Column("tries", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
)
CHARGES = sa.Table(
    "ft_dagster_fleet_charges",
    METADATA,
    sa.Column("run", sa.String(64), primary_key=True),
    sa.Column("day", sa.String(10), primary_key=True, index=True),
    sa.Column("tenant", sa.String(30), nullable=False),
    sa.Column("hours", sa.Float, nullable=False),
    sa.Column("usd", sa.Float, nullable=False),
)
PLACES = sa.Table(
    "ft_dagster_fleet_places",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),  # sha256 of the place, which may be of any length
    sa.Column("key", sa.String(61), primary_key=True, index=True),
    sa.Column("place", sa.Text, nullable=False),
    sa.Column("minutes", sa.Float, nullable=False),
    sa.Column("next_look", sa.Float, nullable=False, index=True),
    sa.Column("found", sa.String(64)),
)
META = sa.Table(
    "ft_dagster_fleet_meta",
    METADATA,
    sa.Column("name", sa.String(40), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


@dataclass(frozen=True)
class FleetRow:
    """Holds a variant's row. `stamp`: of the files that the declaration was read from, `edited`: when these
    changed last. `learnt`: runs and store were looked at since. `paid`: what its newest training took.
    `next_look`: when it may become due by itself. `version`: what stands of it, None before anything was
    trained.
    """

    state: VariantState
    stamp: str
    edited: datetime
    parent: str | None = None
    learnt: bool = False
    paid: PaidFor | None = None
    next_look: datetime | None = None
    version: KnownVersion | None = None

    @property
    def key(self) -> str:
        return str(self.state.key)

    def known(self, **changes: Any) -> FleetRow:
        """Return the same row with other fields of its state."""
        return replace(self, state=replace(self.state, **changes))


class Watched(NamedTuple):
    """Places whose listings a variant asks for, each so many minutes; `anew`: a run of it changed what it
    compares with."""

    places: Sequence[str]
    minutes: float
    anew: bool = True


def content_of(row: FleetRow) -> dict[str, Any]:
    state = row.state
    return {
        "key": row.key,
        "parent": row.parent,
        "stamp": row.stamp,
        "edited": row.edited.timestamp(),
        "learnt": row.learnt,
        "next_look": seconds_of(row.next_look),
        "known_since": state.known_since.timestamp(),
        "priority": state.priority,
        "served": seconds_of(state.served),
        "renewed": seconds_of(state.renewed),
        "running": state.running,
        "failures": state.failures,
        "failed_at": seconds_of(state.failed_at),
        "failure": state.failure,
        "fruitless": state.fruitless,
        "fruitless_at": seconds_of(state.fruitless_at),
        "broken": state.broken,
        "retired": state.retired,
        "retrain": state.retrain.model_dump_json(exclude_defaults=True),
        "cost": json.dumps([*state.cost.amount, state.cost.hours, state.cost.origin]),
        "paid": json.dumps(row.paid),
        "news": json.dumps([news_content(news) for news in state.news]),
        "asked": json.dumps(state.asked),
        "tries": json.dumps(state.tries),
        "version": json.dumps(None if row.version is None else row.version.to_json()),
    }


def row_of(content: Any) -> FleetRow:
    hours, usd, clock, origin = json.loads(content["cost"])
    paid, version = json.loads(content["paid"]), json.loads(content["version"])
    state = VariantState(
        key=VariantKey.parse(content["key"]),
        retrain=_retrain(content["retrain"]),
        cost=RetrainCost(Amount(hours, usd), clock, origin),
        known_since=moment_at(content["known_since"]),
        priority=content["priority"],
        served=_time(content["served"]),
        renewed=_time(content["renewed"]),
        running=content["running"],
        failures=content["failures"],
        failed_at=_time(content["failed_at"]),
        failure=content["failure"],
        fruitless=content["fruitless"],
        fruitless_at=_time(content["fruitless_at"]),
        news=tuple(_news(each) for each in json.loads(content["news"])),
        broken=content["broken"],
        retired=content["retired"],
        asked=tuple(json.loads(content["asked"])),
        tries=tuple(json.loads(content["tries"])),
    )
    return FleetRow(
        state,
        content["stamp"],
        moment_at(content["edited"]),
        content["parent"],
        content["learnt"],
        None if paid is None else PaidFor(*paid),
        _time(content["next_look"]),
        None if version is None else KnownVersion.from_json(version),
    )


@lru_cache(10_000)
def _retrain(content: str) -> RetrainSpec:
    """Validate each text once: many variants say the same, and it was valid when it was written."""
    return RetrainSpec.model_validate_json(content)


def news_content(news: News) -> dict[str, Any]:
    return {**news._asdict(), "since": news.since.timestamp(), "moved": news.moved.timestamp()}


def _news(content: dict[str, Any]) -> News:
    times = {name: moment_at(content[name]) for name in ("since", "moved")}
    return News(**{**content, **times})


def seconds_of(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def moment_at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else moment_at(seconds)
