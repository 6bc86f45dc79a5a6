"""Decides which versions of a variant are kept: what is served or may be next, the newest, those served of
late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import RELEASE, ReleaseEntry
from ft_dagster.lineage.served import aliases, to_go_back_to
from ft_dagster.settings import Retention

DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class Rules:
    """Holds the rules of retention. `of`: a tenant's retention, None for what is shared. `now`: seconds since
    1970.
    """

    of: Callable[[str | None], Retention]
    now: float

    def for_path(self, path: str) -> Retention:
        """Return the retention of what lies there in the store."""
        owner, *names = path.split("/")
        return self.of(names[0] if owner == "tenants" and names else None)

    def before(self, path: str) -> float:
        """Return the time before which what was written and used is old enough to go, in seconds since
        1970.
        """
        return self.now - self.for_path(path).days * DAY


def kept_versions(past: Sequence[ReleaseEntry], prefix: str, rules: Rules) -> set[int]:
    """Return the versions whose artifacts stay. Raises UserError for an entry without a date."""
    versions = [entry.version for entry in past if entry.action == RELEASE]
    rule = rules.for_path(prefix)
    if rule.hold or rule.releases is None:
        return set(versions)
    needed = _last_needed(past)
    young = {version for version, at in needed.items() if at >= rules.before(prefix)}
    served = {version for version in aliases(past).values() if version is not None}
    return {*versions[-rule.releases :], *young, *served, *_before_production(past, prefix)}


def _last_needed(past: Sequence[ReleaseEntry]) -> dict[int, float]:
    """Return version -> when the log last spoke of it or served another in its place, in seconds since
    1970.
    """
    needed: dict[int, float] = {}
    serving: int | None = None
    for entry in past:
        at = _seconds(entry)
        needed[entry.version] = at
        if serving is not None:
            needed[serving] = at
        serving = entry.production
    return needed


def _before_production(past: Sequence[ReleaseEntry], prefix: str) -> set[int]:
    try:
        return {to_go_back_to(past, prefix, None)}
    except UserError:
        return set()  # there is nothing to go back to


def _seconds(entry: ReleaseEntry) -> float:
    try:
        return datetime.fromisoformat(entry.at).timestamp()
    except ValueError:
        raise UserError(
            "an entry of a release log without a date",
            value=entry.at,
            field="at",
            fix="Restore the log's folder from a backup",
        ) from None
