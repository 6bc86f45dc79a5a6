"""Sums each tenant's costs beside what retrains were charged to its budgets today and this month."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ft_dagster.fleet.due.budget_ledger import PLATFORM, BudgetLedger, Charge
from ft_dagster.fleet.due.costs import CostItem, CostRow, cost_row, cost_rows, shown_hours, shown_usd
from ft_dagster.fleet.due.retrain_cost import ANY, NOTHING, Amount
from ft_dagster.fleet_settings import FleetSettings
from ft_dagster.report.figures import ABSENT

ALL = "all"
COLUMNS = ("tenant", "trainings", "hours", "USD", "hours this month", "USD this month",
           "retrains charged today", "retrains charged this month")  # fmt: skip


@dataclass(frozen=True)
class BudgetRow:
    """Holds what a tenant, or all together, cost so far, as `ft-dagster cost` has it, and `this_month`; and
    what retrains were charged of the budget of a day and of a month; a limit is infinite where none is set.
    `day`: None of what tenants share, which has no budget.
    """

    cost: CostRow
    this_month: CostRow = field(default_factory=lambda: CostRow(""))
    day: Amount | None = None
    day_limit: Amount = ANY
    month: Amount = NOTHING
    month_limit: Amount = ANY

    @property
    def cells(self) -> list[str]:
        """Return the cells as COLUMNS names them."""
        charged, cost = [ABSENT, ABSENT], self.cost
        if self.day is not None:
            charged = [charged_of(self.day, self.day_limit), charged_of(self.month, self.month_limit)]
        spent = [
            text for row in (cost, self.this_month) for text in (shown_hours(row.hours), row.usd_shown[1])
        ]
        return [cost.name, str(cost.trainings), *spent, *charged]

    @property
    def is_spent(self) -> bool:
        """Say whether a budget has nothing left, so that no further retrain is started on it."""
        pairs = ((self.day or NOTHING, self.day_limit), (self.month, self.month_limit))
        return any(not used < limit for amounts in pairs for used, limit in zip(*amounts, strict=True))


def budget_rows(
    items: Sequence[CostItem],
    tenants: Iterable[str],
    charges: Iterable[Charge],
    fleet: FleetSettings,
    now: datetime,
) -> list[BudgetRow]:
    """Return a row for each tenant, the dearest first, then one of all together."""
    costs = {row.name: row for row in cost_rows(items, lambda item: item.tenant)}
    costs |= {tenant: CostRow(tenant) for tenant in sorted(set(tenants) - set(costs))}
    book = BudgetLedger(fleet, charges)
    today = book.today(now)
    month = [item for item in items if item.at >= book.midnight(today.replace(day=1))]
    months = {row.name: row for row in cost_rows(month, lambda item: item.tenant)}
    known = set(tenants)

    def row(cost: CostRow, scope: str | None, this_month: CostRow) -> BudgetRow:
        if scope is None:
            return BudgetRow(cost, this_month)
        limits, used = book.limits(scope), book.used_in_month(today, scope)
        return BudgetRow(cost, this_month, book.used(today, scope), limits.day, used, limits.month)

    rows = [
        row(cost, name if name in known else None, months.get(name, CostRow(name)))
        for name, cost in costs.items()
    ]
    return [*rows, row(cost_row(ALL, items), PLATFORM, cost_row(ALL, month))]


def budget_sentence(tenant: str, charges: Iterable[Charge], fleet: FleetSettings, now: datetime) -> str:
    """Say what retrains of a tenant were charged of its budget, or that it has none."""
    row = budget_rows([], [tenant], charges, fleet, now)[0]
    if row.day is None or all(math.isinf(each) for each in (*row.day_limit, *row.month_limit)):
        return f"{tenant} has no budget of its own (fleet.tenant_budget, fleet.per_tenant)"
    day, month = charged_of(row.day, row.day_limit), charged_of(row.month, row.month_limit)
    return f"retrains of {tenant} were charged {day} today, {month} this month"


def charged_of(used: Amount, limit: Amount) -> str:
    """Write "1.5 of 8 h, $3.00"; without a limit the amount alone."""
    of = f" of {shown_hours(limit.hours)}" if math.isfinite(limit.hours) else ""
    said = f"{shown_hours(used.hours)}{of} h"
    if used.usd or math.isfinite(limit.usd):
        said += f", ${shown_usd(used.usd)}"
        said += f" of ${shown_usd(limit.usd)}" if math.isfinite(limit.usd) else ""
    return said
