"""Which versions retention keeps."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.entry import PROMOTE, RELEASE, ROLLBACK, Action, ReleaseEntry
from ft_dagster.lineage.retention import Rules, kept_versions
from ft_dagster.settings import Retention, Retentions

NOW = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
DAY = 86_400.0
PREFIX = "tenants/acme/support"


def entry(action: Action, version: int, production: int | None, days_ago: float, **more: Any) -> ReleaseEntry:
    at = datetime.fromtimestamp(NOW - days_ago * DAY, UTC).isoformat(timespec="seconds")
    return ReleaseEntry(
        action=action,
        variant="acme.support",
        version=version,
        production=production,
        export=f"export {version}",
        export_key="",
        format="adapter",
        weights=f"weights {version}",
        evaluation="",
        by="ann",
        reason="",
        at=at,
        **more,
    )


def releases(count: int, first_days_ago: float = 1000) -> list[ReleaseEntry]:
    """So many versions, a day after each other, each served at once."""
    return [entry(RELEASE, n, n, first_days_ago - n) for n in range(1, count + 1)]


def kept(past: list[ReleaseEntry], **retention: Any) -> set[int]:
    return kept_versions(past, PREFIX, Rules(lambda tenant: Retention(**retention), NOW))


def test_all_versions_stay_unless_a_number_is_declared() -> None:
    assert kept(releases(5)) == {1, 2, 3, 4, 5}
    assert kept([]) == set()


def test_the_newest_stay_with_the_one_that_a_rollback_goes_back_to() -> None:
    assert kept(releases(6), releases=1) == {5, 6}
    assert kept(releases(6), releases=3) == {4, 5, 6}


def test_production_stays_however_old_and_so_does_what_was_served_before_it() -> None:
    waiting = [entry(RELEASE, n, 2, 900) for n in range(3, 8)]
    assert kept([*releases(2), *waiting], releases=1) == {1, 2, 7}
    back = [*releases(5), entry(ROLLBACK, 2, 2, 900, from_version=5)]
    assert kept(back, releases=1) == {1, 2, 5}


def test_what_was_served_of_late_stays() -> None:
    past = [*releases(6), entry(PROMOTE, 2, 2, 500), entry(PROMOTE, 6, 6, 10)]
    assert kept(past, releases=1, days=30) == {2, 6}
    promoted = [*past, entry(RELEASE, 7, 7, 8), entry(RELEASE, 8, 8, 7)]
    assert kept(promoted, releases=1, days=9) == {6, 7, 8}
    assert kept(promoted, releases=1, days=11) == {2, 6, 7, 8}


def test_on_hold_all_stay() -> None:
    assert kept(releases(6), releases=1, hold=True) == {1, 2, 3, 4, 5, 6}


def test_a_tenant_has_what_it_says_over_what_holds_for_all() -> None:
    all_of = Retentions.model_validate(
        {"releases": 5, "days": 30, "per_tenant": {"acme": {"hold": True}, "globex": {"releases": None}}}
    )
    assert all_of.of("acme") == Retention(releases=5, days=30, hold=True)
    assert all_of.of("globex") == Retention(releases=None, days=30)
    assert all_of.of("initech") == all_of.of(None) == Retention(releases=5, days=30)


def test_an_entry_without_a_date_is_one_message() -> None:
    with pytest.raises(UserError, match="without a date"):
        kept([ReleaseEntry(**{**vars(releases(1)[0]), "at": "yesterday"})], releases=1)
