"""Writes times as people read them, everywhere alike."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Write seconds as time: 200 -> "3m 20s"; 7500 -> "2h 05m"; 4.2 -> "4.2s"."""
    if seconds < 59.95:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60:,}h {minutes % 60:02d}m"


def of_hours(hours: float) -> str:
    """Write hours as time, in the same way."""
    return duration(3600 * hours)
