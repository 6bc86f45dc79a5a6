"""Variants of a fleet as they are known, and random fleets by seed."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from ft_dagster.fleet.due.reasons import News, VariantState
from ft_dagster.fleet.due.retrain_cost import Amount, RetrainCost
from ft_dagster.fleet_settings import BudgetSettings, FleetSettings
from ft_dagster.spec import VariantKey
from ft_dagster.spec.variant import RetrainSpec

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)  # a Monday
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
AT_ONCE = FleetSettings(spread_hours=0)


def costing(hours: float, usd: float = 0.0, devices: int = 1) -> RetrainCost:
    """`hours` of all devices together."""
    return RetrainCost(Amount(hours, usd), hours / devices, "as given")


def variant(key: str, hours: float = 1.0, **known: Any) -> VariantState:
    """One that came to a verdict two days and a minute before NOON; `retrain`: as it is declared."""
    before = NOON - 2 * DAY - HOUR / 60
    said = {"known_since": before, "served": before, "cost": costing(hours), **known}
    said.setdefault("renewed", said["served"])
    said["retrain"] = RetrainSpec.model_validate(said.get("retrain", {}))
    return VariantState(VariantKey.parse(key), **said)


def daily(key: str, hours: float = 1.0, **known: Any) -> VariantState:
    """Due at NOON since the noon before."""
    return variant(key, hours, retrain={"cron": "0 12 * * *"}, served=NOON - 1.5 * DAY, **known)


def changed(since: datetime, moved: datetime | None = None, **more: Any) -> News:
    """Of a source."""
    return News("data", f"data-{since:%d%H%M}", since, moved or since, "data/rows.jsonl changed", **more)


def budget(spread_hours: float = 0, **limits: float) -> FleetSettings:
    """The platform's budget alone."""
    return FleetSettings(budget=BudgetSettings(**limits), spread_hours=spread_hours)


def random_variant(dice: random.Random, key: str) -> VariantState:
    """One of any state; more often due than not."""
    served = NOON - dice.uniform(0.1, 20) * DAY
    since = NOON - dice.uniform(0, 3) * DAY
    retrain: dict[str, Any] = {
        "cron": dice.choice([None, "0 3 * * *", "30 2 * * 1", "*/15 * * * *"]),
        "timezone": dice.choice(["UTC", "Europe/Madrid", "America/New_York"]),
        "on_new_data": dice.random() < 0.5,
        "max_age_days": dice.choice([None, None, 3.0, 30.0]),
        "least_share": dice.choice([0.0, 0.5]),
    }
    failures = dice.choice([0, 0, 0, 1, 3])
    return variant(
        key,
        dice.lognormvariate(0, 1),
        retrain=retrain,
        served=served,
        known_since=served - DAY,
        running=dice.random() < 0.1,
        retired=dice.random() < 0.05,
        broken="tenants/x.yaml: not YAML" if dice.random() < 0.05 else None,
        failures=failures,
        failed_at=NOON - dice.uniform(0, 1) * DAY if failures else None,
        failure="out of memory",
        priority=dice.choice([0, 0, 10, -50]),
        news=(changed(since, share=dice.random()),) if dice.random() < 0.5 else (),
    )
