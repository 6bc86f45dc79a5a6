"""Finds for each variant whether what stands is what would be made now, and if not, the root cause.

Computed once for the fleet, from what the table knows: a variant is fresh if nothing that it was made from is
other than it was, and the same holds of its parent, and of the parent's parent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from ft_dagster.lineage.stale import StaleCause, StaleKind

if TYPE_CHECKING:
    from ft_dagster.fleet.due.reasons import News
    from ft_dagster.fleet.table.table_rows import FleetRow


class RootCause(NamedTuple):
    """Names a root cause. `variant`: where it lies, the one that is out of date by it or one that it descends
    from.
    """

    variant: str
    cause: StaleCause

    def said(self, of: str) -> str:
        """Say it in words to somebody who asked about a variant."""
        return self.cause.words if self.variant == of else f"{self.variant}: {self.cause.words}"


def freshness(rows: Iterable[FleetRow]) -> dict[str, tuple[RootCause, ...]]:
    """Return key -> why a variant is out of date, its own causes first, then its parents'; none where it is
    fresh, or was never trained.
    """
    known = {row.key: row for row in rows}
    found: dict[str, tuple[RootCause, ...]] = {}
    for key in known:
        for each in reversed(_line(key, known, found)):
            row = known[each]
            above = found.get(row.parent or "", ())
            found[each] = () if row.version is None else (*_own(row), *above)
    return found


def _line(key: str, known: dict[str, FleetRow], done: dict[str, tuple[RootCause, ...]]) -> list[str]:
    """Yield a variant and those that it descends from, as far as they are not done; a cycle is gone round
    once.
    """
    line = dict[str, None]()
    at: str | None = key
    while at in known and at not in done and at not in line:
        line[at] = None
        at = known[at].parent
    return list(line)


def _own(row: FleetRow) -> list[RootCause]:
    version = row.version
    told = () if version is None else version.causes
    listed = filter(None, map(_of_news, row.state.news))
    return [RootCause(row.key, cause) for cause in dict.fromkeys((*told, *listed))]


def _of_news(news: News) -> StaleCause | None:
    """Return the cause that a listing of sources or base found; what a parent released is known from its
    log.
    """
    if news.kind == "parent":
        return None
    kind: StaleKind = "source" if news.kind == "data" else "base"
    return StaleCause(kind, news.words.removesuffix(" changed"), news.words)
