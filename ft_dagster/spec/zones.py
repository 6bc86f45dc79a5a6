"""Names of time zones, and times that come again."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError
from pydantic_core import PydanticCustomError


def known_zone(name: str) -> str:
    """Return the name, where it is one. Raises PydanticCustomError, with the way out."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder of zones, or too long for a file's name
        city = name.strip().replace(" ", "_").title()
        cities = [zone for zone in sorted(available_timezones()) if zone.split("/")[-1] == city]
        fix = f"Did you mean {cities[0]}?" if cities else "Write it as Europe/Berlin or UTC"
        raise PydanticCustomError("zone", "not an IANA time zone", {"fix": fix}) from None
    return name


def known_cron(expression: str) -> str:
    """Return the expression of cron, where it is one. Raises PydanticCustomError, with the way out."""
    try:
        CronSim(expression, datetime(2000, 1, 1))
    except CronSimError as error:
        fix = "Write minute, hour, day, month and weekday: '0 3 * * 1' is each Monday at 3:00"
        said = {"why": str(error), "fix": fix}
        raise PydanticCustomError("cron", "not a cron expression: {why}", said) from None
    return expression
