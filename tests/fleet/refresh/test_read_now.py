"""What a command reads of a variant where no daemon has looked since."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ft_dagster.fleet.history import RunHistory
from ft_dagster.fleet.refresh.read_now import without_mended
from ft_dagster.fleet.table.version import KnownVersion

THEN = datetime(2026, 12, 1, 22, 41, tzinfo=UTC)
FAILED = RunHistory(failures=2, failed_at=THEN, failure="its process has ended")


def test_a_release_after_a_failed_run_mended_it() -> None:
    known = without_mended(FAILED, KnownVersion(version=1, made=THEN + timedelta(minutes=2)))
    assert (known.failures, known.failed_at, known.failure) == (0, None, "")


@pytest.mark.parametrize("version", [None, KnownVersion(), KnownVersion(version=1, made=THEN)])
def test_a_failed_run_after_the_last_release_stands(version: KnownVersion | None) -> None:
    assert without_mended(FAILED, version) == FAILED
