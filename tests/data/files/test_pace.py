"""How far a loop is, in words."""

from __future__ import annotations

import pytest

from ft_dagster.data.files.pace import RowPace


def test_what_is_left_is_said_once_it_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("ft_dagster.data.files.pace.time.monotonic", lambda: now)
    pace = RowPace(50_000)
    assert pace.said(0) == "0 of 50,000 rows"
    now = 110.0
    assert pace.said(4_000) == "4,000 of 50,000 rows, about 1m 55s left"
    assert pace.said(49_000) == "49,000 of 50,000 rows"
    assert pace.said(50_000) == "50,000 of 50,000 rows"


def test_what_is_left_has_no_sixty_seconds() -> None:
    pace = RowPace(100)
    pace.began -= 59.7
    assert pace.said(50) == "50 of 100 rows, about 1m 00s left"
