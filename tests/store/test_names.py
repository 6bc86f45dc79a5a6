"""Names in a store, by when what they name was written."""

from __future__ import annotations

from pathlib import Path

from ft_dagster.store import Store
from ft_dagster.store.make import Recipe, make_artifact

PREFIX, HOUR = "tenants/acme/support", 3600.0
ROUNDED = 1e-3  # seconds: what `modified` says is rounded, up as well


def test_what_was_written_since_is_found_in_folders_and_under_s3(any_store: Store, tmp_path: Path) -> None:
    for name in ("a", "b"):
        made = make_artifact(any_store, tmp_path / "work", Recipe("probe", PREFIX, {"x": name}), lambda _: {})
    written = any_store.modified(made.manifest_path)
    folder = f"{PREFIX}/probe"
    assert any_store.names_written(folder, "manifest*.json", 0.0) == any_store.names(folder)
    assert made.place.key in any_store.names_written(folder, "manifest*.json", written - ROUNDED)
    assert any_store.names_written(folder, "manifest*.json", written + HOUR) == []
    assert any_store.names_written(folder, "nothing", 0.0) == []
    assert any_store.names_written(f"{PREFIX}/none", "*", 0.0) == []
