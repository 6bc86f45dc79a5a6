"""Sums each tenant's costs beside what retrains were charged to its budgets today and this month."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ft_dagster.fleet.due.budget_ledger import PLATFORM, BudgetLedger, Charge
from ft_dagster.fleet.due.costs import CostItem, CostRow, cost_row, cost_rows, shown_hours, shown_usd
from ft_dagster.fleet.due.retrain_cost import ANY, NOTHING, Amount
from ft_dagster.fleet_settings import FleetSettings
from ft_dagster.report.figures import ABSENT

ALL = "all"
COLUMNS = ("tenant", "trainings", "hours", "USD", "retrains charged today", "this month")


@dataclass(frozen=True)
class BudgetRow:
    """Holds what a tenant, or all together, cost so far, as `ft-dagster cost` has it, and what retrains were
    charged of the budget of a day and of a month; a limit is infinite where none is set. `day`: None of what
    tenants share, which has no budget.
    """

    cost: CostRow
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
        return [cost.name, str(cost.trainings), shown_hours(cost.hours), shown_usd(cost.usd), *charged]

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
    known = set(tenants)
    rows = [_row(cost, name, book, now) if name in known else BudgetRow(cost) for name, cost in costs.items()]
    return [*rows, _row(cost_row(ALL, items), PLATFORM, book, now)]


def _row(cost: CostRow, scope: str, book: BudgetLedger, now: datetime) -> BudgetRow:
    today, limits = book.today(now), book.limits(scope)
    used, in_month = book.used(today, scope), book.used_in_month(today, scope)
    return BudgetRow(cost, used, limits.day, in_month, limits.month)


def charged_of(used: Amount, limit: Amount) -> str:
    """Write "1.5 of 8 h, $3.00"; without a limit the amount alone."""
    of = f" of {shown_hours(limit.hours)}" if math.isfinite(limit.hours) else ""
    said = f"{shown_hours(used.hours)}{of} h"
    if used.usd or math.isfinite(limit.usd):
        said += f", ${shown_usd(used.usd)}"
        said += f" of ${shown_usd(limit.usd)}" if math.isfinite(limit.usd) else ""
    return said
