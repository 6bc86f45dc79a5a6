"""Names in a store, by when what they name was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_dagster.store import Store
from ft_dagster.store.make import Recipe, make_artifact
from tests.s3_server import serve_s3
from tests.troubled_s3 import trouble

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


@pytest.mark.slow
def test_a_folder_of_an_object_store_is_listed_alone_and_to_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts" / "store" / "many"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "file").touch()
    for number in range(1200):
        (folder / f"{number:04d}").touch()
    with serve_s3(tmp_path) as direct, trouble(direct) as (server, troubles):
        store = Store(f"s3://{server.bucket}/store", server.options)
        assert store.names("many") == sorted(["below", *(f"{number:04d}" for number in range(1200))])
        asked = len(troubles.log)
        assert store.names("many/none") == []
        assert len(troubles.log) == asked + 1
        assert troubles.log[-1].got < 1000
