"""Stages at other versions: as they are after somebody raised one, or as they were when a store was made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ft_dagster.stage_entries import ENTRIES


def set_version(monkeypatch: pytest.MonkeyPatch, stage: str, version: int) -> None:
    """Give a stage this version until the test ends."""
    monkeypatch.setitem(ENTRIES, stage, replace(ENTRIES[stage], version=version))


def set_versions_of(monkeypatch: pytest.MonkeyPatch, project: Path, **raised: int) -> None:
    """Give the stages the versions that artifacts below a folder have, but for these, until the test ends."""
    found: dict[str, int] = {}
    for file in project.rglob("manifest.json"):
        predicate = json.loads(file.read_bytes())["predicate"]
        found[predicate["stage"]] = predicate["stage_version"]
    for stage, version in (found | raised).items():
        set_version(monkeypatch, stage, version)
