"""The plug is pulled: what a manifest names is on the disk before the manifest says that it is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.store import Attempt, Store
from ft_dagster.store.make import Recipe, make_artifact

RECIPE = Recipe("task_dataset", "tenants/acme/support", spec={"data": 1})


def build(attempt: Attempt) -> dict[str, Any]:
    (attempt.payload / "rows").mkdir()
    (attempt.payload / "rows" / "1.txt").write_text("rows")
    (attempt.evidence / "log.txt").write_text("log")
    return {}


def test_files_and_folders_are_written_out_before_the_manifest_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, done, sync, link = Store(str(tmp_path / "store")), list[str](), os.fsync, os.link

    def fsync(descriptor: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    def linked(source: str, target: Path) -> None:
        done.append("the manifest")
        link(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", linked)
    artifact = make_artifact(store, tmp_path / "work", RECIPE, build)
    before, after = done[: done.index("the manifest")], done[done.index("the manifest") :]
    folder = Path(store.path(artifact.path))
    assert {str(path) for path in (folder, *folder.rglob("*"))} <= set(before)
    assert store.path(RECIPE.place.path) in after
