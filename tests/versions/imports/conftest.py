"""Each test stands in a folder of its own, with a base beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.spec.small_base import lay_base


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FT_DAGSTER_SOURCES__BASES", raising=False)
    lay_base(tmp_path / "base")
    return tmp_path
