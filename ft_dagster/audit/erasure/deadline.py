"""Says by which day an erasure has to be done."""

from __future__ import annotations

import calendar
from datetime import date

from ft_dagster.errors import UserError

GDPR = "one month from today (GDPR art. 12(3))"
LATER = "as said, later than the month of GDPR art. 12(3)"
SAID = "as said"


def one_month_after(day: date) -> date:
    """Return the same day of the next month, or its last day where it has none such (Regulation 1182/71)."""
    year, month = (day.year + 1, 1) if day.month == 12 else (day.year, day.month + 1)
    return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


def due_day(said: str | None, today: date) -> tuple[date, str]:
    """Return (the day, by what it is that): what was `said`, YYYY-MM-DD, or else one month from today. Raises
    UserError for what is no day, and for one that is past.
    """
    month = one_month_after(today)
    if said is None:
        return month, GDPR
    fix = f"Write a day from {today} on as YYYY-MM-DD, or leave it out: {month}"
    try:
        day = date.fromisoformat(said) if len(said) == 10 else None
    except ValueError:
        day = None
    if day is None:
        raise UserError("not a day", field="--deadline", value=said, fix=fix)
    if day < today:
        raise UserError("a day that is past", field="--deadline", value=said, fix=fix)
    return day, LATER if day > month else SAID
