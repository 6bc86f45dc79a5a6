"""Keeps what was promised and spent on each day, and finds the days on which another retrain can be charged.

Days and months are those of one time zone. A scope is a tenant, or "" for the whole platform: each charge is
counted in both. No day is ever charged beyond its budget.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from ft_dagster.fleet.due.retrain_cost import ANY, NOTHING, Amount, RetrainCost
from ft_dagster.fleet_settings import BudgetSettings, FleetSettings

PLATFORM = ""
MOST_DAYS = 62  # over which one retrain, or what it took beyond its estimate, is charged
EXACT = 1e-9
Dearer = Literal["spread", "refuse"]


class Charge(NamedTuple):
    """Charges a retrain of `tenant` to a day's budget."""

    day: date
    tenant: str
    amount: Amount


class SpendingLimits(NamedTuple):
    """Limits the spending of one scope; infinite where nothing is set."""

    day: Amount
    month: Amount

    @classmethod
    def of(cls, budget: BudgetSettings) -> SpendingLimits:
        return cls(
            Amount(_or_any(budget.hours_per_day), _or_any(budget.usd_per_day)),
            Amount(_or_any(budget.hours_per_month), _or_any(budget.usd_per_month)),
        )


class CannotPay(NamedTuple):
    """Says that a retrain cannot be paid now. `later`: it can be, as things stand; `why`: in a sentence;
    `again`: when to look again.
    """

    later: bool
    why: str
    again: datetime | None = None


class BudgetLedger:
    """Charges by day and scope, over the budgets of `settings`."""

    def __init__(self, settings: FleetSettings, charges: Iterable[Charge] = ()) -> None:
        self.zone = ZoneInfo(settings.timezone)
        self._platform = SpendingLimits.of(settings.budget)
        self._tenants = SpendingLimits.of(settings.tenant_budget)
        self._named = {tenant: SpendingLimits.of(budget) for tenant, budget in settings.per_tenant.items()}
        self._days: dict[tuple[date, str], list[float]] = {}  # hours and dollars
        self._months: dict[tuple[int, int, str], list[float]] = {}
        for charge in charges:
            self.add(charge)

    def add(self, charge: Charge) -> None:
        day, (hours, usd) = charge.day, charge.amount
        for scope in (PLATFORM, charge.tenant):
            of_day = self._days.setdefault((day, scope), [0.0, 0.0])
            of_month = self._months.setdefault((day.year, day.month, scope), [0.0, 0.0])
            for used in (of_day, of_month):
                used[0] += hours
                used[1] += usd

    def take_back(self, charge: Charge) -> None:
        self.add(charge._replace(amount=charge.amount.times(-1)))

    def limits(self, scope: str) -> SpendingLimits:
        return self._platform if scope == PLATFORM else self._named.get(scope, self._tenants)

    def used(self, day: date, scope: str = PLATFORM) -> Amount:
        return Amount(*self._days.get((day, scope), NOTHING))

    def used_in_month(self, day: date, scope: str = PLATFORM) -> Amount:
        return Amount(*self._months.get((day.year, day.month, scope), NOTHING))

    def used_lately(self, today: date, scope: str = PLATFORM, days: int = 7) -> Amount:
        """Return what was used on `today` and the days before it, `days` together."""
        total = NOTHING
        for back in range(days):
            total = total.plus(self.used(today - timedelta(days=back), scope))
        return total

    def left(self, day: date, tenant: str) -> Amount:
        """Return what the tenant may still be charged on a day, by its own budgets and the platform's."""
        left = ANY
        for scope in (PLATFORM, tenant):
            limits = self.limits(scope)
            left = left.least(limits.day.minus(self.used(day, scope)))
            left = left.least(limits.month.minus(self.used_in_month(day, scope)))
        return left

    def today(self, now: datetime) -> date:
        return now.astimezone(self.zone).date()

    def midnight(self, day: date) -> datetime:
        """Return when a day begins, in UTC."""
        return datetime(day.year, day.month, day.day, tzinfo=self.zone).astimezone(UTC)

    def by_the_clock(self, tenant: str, cost: RetrainCost, start: datetime) -> list[Charge]:
        """Spread a cost over the days that it runs on, each by its share of the time."""
        if cost.hours <= 0:
            return [Charge(self.today(start), tenant, cost.amount)]
        charges, at, end = [], start, start + timedelta(hours=cost.hours)
        while at < end:
            day = self.today(at)
            until = min(end, self.midnight(day + timedelta(days=1)))
            share = (until - at) / timedelta(hours=cost.hours)
            charges.append(Charge(day, tenant, cost.amount.times(share)))
            at = until
        return charges

    def place(
        self, tenant: str, cost: RetrainCost, now: datetime, dearer: Dearer, *, overdue: bool = False
    ) -> list[Charge] | CannotPay:
        """Return the charges by which a retrain that starts now is paid, or why it cannot be.

        One that costs more than a whole day's budget is charged to as many days as it needs, from today on,
        where `dearer` is spread. So is one that is `overdue`: it takes what is left of each day first.
        """
        never = never_paid(cost)
        if never is not None:
            return CannotPay(False, never)
        charges = self.by_the_clock(tenant, cost, now)
        if self._hold(charges):
            return charges
        today, whole = self.today(now), self._whole_day(tenant)
        if whole.share_of(cost.amount) == 0:
            return CannotPay(False, "a budget is 0")
        is_dearer = whole.share_of(cost.amount) < 1 - EXACT
        if is_dearer and dearer == "refuse":
            return CannotPay(
                False, f"it costs {_shown(cost.amount)}, more than a day's budget ({_shown(whole)})"
            )
        tomorrow = self.midnight(today + timedelta(days=1))
        left = self.left(today, tenant)
        if not (is_dearer or overdue) or left.share_of(cost.amount) <= EXACT:
            words = f"it costs {_shown(cost.amount)}, and today's budgets have {_shown(left)} left"
            if left.share_of(cost.amount) >= 1 - EXACT:
                words = f"it costs {_shown(cost.amount)} and would run over midnight: tomorrow's are promised"
            return CannotPay(True, words, tomorrow)
        spread, rest = self._fill(tenant, cost.amount, today)
        if rest > EXACT:
            words = f"it costs {_shown(cost.amount)}, more than what is left of {MOST_DAYS} days"
            return CannotPay(not is_dearer, words, tomorrow)
        return spread

    def overrun(self, tenant: str, beyond: Amount, ended: datetime) -> list[Charge]:
        """Charges for what a training took beyond its estimate: the next day, and on where that is full.

        What all of MOST_DAYS have no room for is left out: no day is charged beyond its budget.
        """
        return self._fill(tenant, beyond, self.today(ended) + timedelta(days=1))[0]

    def _fill(self, tenant: str, amount: Amount, first: date) -> tuple[list[Charge], float]:
        """Charges from day `first` on, each as much as fits; and the share that found no room."""
        charges: list[Charge] = []
        within: dict[tuple[int, int], float] = defaultdict(float)  # share put into each month so far
        rest = 1.0
        for ahead in range(MOST_DAYS):
            day = first + timedelta(days=ahead)
            month = (day.year, day.month)
            left = self.left(day, tenant).least(self._left_of_month(day, tenant, amount.times(within[month])))
            share = min(rest, left.share_of(amount))
            if share > EXACT:
                charges.append(Charge(day, tenant, amount.times(share)))
                within[month] += share
                rest -= share
            if rest <= EXACT:
                break
        return charges, max(0.0, rest)

    def _left_of_month(self, day: date, tenant: str, taken: Amount) -> Amount:
        left = ANY
        for scope in (PLATFORM, tenant):
            left = left.least(self.limits(scope).month.minus(self.used_in_month(day, scope)))
        return left.minus(taken)

    def _hold(self, charges: Iterable[Charge]) -> bool:
        """Say whether all of them fit together."""
        months: dict[tuple[int, int], Amount] = defaultdict(Amount)
        for charge in charges:
            month = (charge.day.year, charge.day.month)
            left = self.left(charge.day, charge.tenant)
            left = left.least(self._left_of_month(charge.day, charge.tenant, months[month]))
            if left.share_of(charge.amount) < 1 - EXACT:
                return False
            months[month] = months[month].plus(charge.amount)
        return True

    def _whole_day(self, tenant: str) -> Amount:
        """Return what one retrain could be charged on a day of which nothing was used."""
        platform, own = self.limits(PLATFORM), self.limits(tenant)
        return platform.day.least(own.day).least(platform.month).least(own.month)


def never_paid(cost: RetrainCost) -> str | None:
    """Return why no ledger has room for a retrain, whatever its budgets are; None where one may have."""
    if cost.hours <= MOST_DAYS * 24:
        return None
    return f"it is estimated to take {cost.hours:,.0f} h by the clock, and {MOST_DAYS} days are the most"


def settled(charges: Iterable[Charge], estimated: Amount, real: Amount) -> list[Charge]:
    """Return the charges of a training that has finished: what it did not need is given back, on each of its
    days by the same share. What it took beyond is an overrun.
    """
    hours, usd = (
        min(1.0, took / said) if said > 0 else 1.0 for took, said in zip(real, estimated, strict=True)
    )
    return [
        charge._replace(amount=Amount(charge.amount.hours * hours, charge.amount.usd * usd))
        for charge in charges
    ]


def beyond(estimated: Amount, real: Amount) -> Amount:
    """Return how much more a training took than it was estimated."""
    return Amount(max(0.0, real.hours - estimated.hours), max(0.0, real.usd - estimated.usd))


def _or_any(value: float | None) -> float:
    return ANY.hours if value is None else value


def _shown(amount: Amount) -> str:
    hours, usd = (max(0.0, value) for value in amount)
    parts = [] if hours == ANY.hours else [f"{hours:.3g} h"]
    parts += [] if usd in (ANY.usd, 0.0) and parts else [f"${usd:,.2f}"]
    return " and ".join(parts)
