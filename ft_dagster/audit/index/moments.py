"""Reads which moment a date means that somebody asks about."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time

from ft_dagster.errors import UserError

MONDAY, SUNDAY = 1, 7  # of a week of ISO 8601
_WEEK = re.compile(r"([0-9]{4})-?W([0-9]{2})")


def moment_of(asked: str, now: datetime) -> tuple[str, str]:
    """Return (a date or a moment as release logs write it, in UTC and to the second; how what was asked was
    read).

    A date or a week means its last second, and `now` before it has ended.
    """
    fix, period = "Give 2026-11-03 or 2026-11-03T14:00:00+00:00", _period(asked)
    try:
        first = datetime.fromisoformat(asked) if period is None else period[0]
        note = "" if first.tzinfo else "no time zone was given: read as UTC"
        first = first.replace(tzinfo=first.tzinfo or UTC).astimezone(UTC)
    except ValueError:
        raise UserError("no date", field="DATE", value=asked, fix=fix) from None
    except OverflowError:
        raise UserError("a date outside of the calendar", field="DATE", value=asked, fix=fix) from None
    if first > now:
        fix = f"Name a date up to today, which is {now.date()} in UTC"
        raise UserError("in the future, which nobody knows", field="DATE", value=asked, fix=fix)
    if period is not None:
        ended, going_on = "as of its end in UTC", "as of now, since it has not ended in UTC"
        first, note = (period[1], ended) if period[1] <= now else (now, going_on)
    return first.isoformat(timespec="seconds"), note


def _period(asked: str) -> tuple[datetime, datetime] | None:
    """Return the first and last second of a date, however ISO 8601 writes it, or of a week; None of a
    moment.
    """
    week = _WEEK.fullmatch(asked)
    try:
        monday = date.fromisocalendar(int(week[1]), int(week[2]), MONDAY) if week else None
        first = monday or date.fromisoformat(asked)
        last = date.fromisocalendar(int(week[1]), int(week[2]), SUNDAY) if week else first
    except ValueError:
        return None
    start, end = datetime.combine(first, time(), UTC), datetime.combine(last, time(23, 59, 59), UTC)
    return start, end
