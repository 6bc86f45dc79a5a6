"""A stage at another version, as it is after somebody raised it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ft_dagster.stage_entries import ENTRIES


def set_version(monkeypatch: pytest.MonkeyPatch, stage: str, version: int) -> None:
    """Give a stage this version until the test ends."""
    monkeypatch.setitem(ENTRIES, stage, replace(ENTRIES[stage], version=version))
