"""Says what became of weights by the release log: released, waiting, in production, rolled back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ft_dagster.lineage.entry import RELEASE, ReleaseEntry
from ft_dagster.lineage.served import rolled_back


@dataclass(frozen=True)
class VersionStatus:
    """Tells where a version stands. `version`: the newest of these weights, or the one in production;
    `production`: what is served now; `newest`: of all versions. `was_served`: it was in production before.
    `rolled_back`: why it was, and `unmeasured` why it could not be held against production; None where that
    is not so.
    """

    version: int
    production: int | None
    newest: int
    was_served: bool = False
    rolled_back: str | None = None
    unmeasured: str | None = None

    @property
    def is_served(self) -> bool:
        return self.version == self.production

    @property
    def waits(self) -> bool:
        """Say whether somebody has to approve it: the newest version, never served, not taken back."""
        untouched = not self.was_served and self.rolled_back is None
        return untouched and not self.is_served and self.version == self.newest


def status_of(past: Sequence[ReleaseEntry], entry: ReleaseEntry) -> VersionStatus:
    """Say what became of the version of an entry by the log."""
    versions = {each.version: each for each in past if each.action == RELEASE}
    return VersionStatus(
        entry.version,
        past[-1].production,
        max(versions),
        any(each.production == entry.version for each in past),
        rolled_back(past).get(entry.version),
        versions[entry.version].unmeasured,
    )


def status_of_weights(past: Sequence[ReleaseEntry], weights: str) -> VersionStatus | None:
    """Say what became of weights by the log: of their version in production, else of their newest; None where
    they were never released.
    """
    own = [entry for entry in past if entry.action == RELEASE and entry.weights == weights]
    served = [entry for entry in own if entry.version == past[-1].production]
    return status_of(past, (served or own)[-1]) if own else None
