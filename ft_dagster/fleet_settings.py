"""Defines the settings of the fleet: budgets, orders of the platform, and how retrains are spread."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    AwareDatetime,
    Field,
    field_validator,
    model_validator,
)

from ft_dagster.settings_part import Part, Tenant
from ft_dagster.spec.keys import HALF
from ft_dagster.spec.zones import known_zone


class BudgetSettings(Part):
    """Limits what may be spent; null: any amount. Hours are those of one GPU; without any, of a training."""

    hours_per_day: float | None = Field(None, ge=0, le=1e9, description="GPU hours a day")
    usd_per_day: float | None = Field(None, ge=0, le=1e9, description="US dollars a day")
    hours_per_month: float | None = Field(None, ge=0, le=1e9, description="GPU hours a month")
    usd_per_month: float | None = Field(None, ge=0, le=1e9, description="US dollars a month")


class PlatformOrder(Part):
    """Declares a retrain that the platform asks for: a new policy, an erasure."""

    name: str = Field(pattern=rf"^{HALF.pattern}$", description="Tells it from other orders")
    reason: str = Field(min_length=1, max_length=200, description="Shown beside each run")
    given: AwareDatetime = Field(description="Runs that started before do not fulfil it; with time zone")
    deadline: AwareDatetime = Field(description="By when each run is to have started; with time zone")
    variants: tuple[str, ...] = Field(("*",), description="Patterns of variants: acme.*")

    @model_validator(mode="after")
    def _deadline_comes_after(self) -> PlatformOrder:
        if self.deadline < self.given:
            raise ValueError("deadline: comes before given")
        return self


class FleetSettings(Part):
    """Says how retrains are decided upon."""

    timezone: str = Field("UTC", description="IANA name: whose days and months budgets are of")
    budget: BudgetSettings = Field(BudgetSettings(), description="Of all retrains together")
    tenant_budget: BudgetSettings = Field(BudgetSettings(), description="Of each tenant not named below")
    per_tenant: dict[Tenant, BudgetSettings] = Field({}, description="Of one tenant, in place of that")
    dearer: Literal["spread", "refuse"] = Field(
        "spread", description="A retrain that costs more than a day's budget: charged to several days, or not"
    )
    spread_hours: float = Field(
        1.0, ge=0, le=168, description="Retrains that may wait start over this long; 0: all at once"
    )
    orders: tuple[PlatformOrder, ...] = Field((), description="Retrains that the platform asks for")

    @field_validator("timezone")
    @classmethod
    def _zone_is_known(cls, name: str) -> str:
        return known_zone(name)

    @field_validator("orders")
    @classmethod
    def _each_order_has_its_own_name(cls, orders: tuple[PlatformOrder, ...]) -> tuple[PlatformOrder, ...]:
        names = [order.name for order in orders]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two orders are named {twice}: each needs its own name")
        return orders
