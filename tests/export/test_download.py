"""Taking an export away from the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.export.download import download
from ft_dagster.lineage.manifest import statement
from ft_dagster.store import Artifact, Place, Store, begin, commit
from ft_dagster.store.artifacts import files_of


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def export(store: Store, tmp_path: Path) -> Artifact:
    place = Place("tenants/acme/support", "model_export", "key")
    attempt = begin(store, place, tmp_path)
    (attempt.payload / "adapter").mkdir()
    (attempt.payload / "adapter" / "weights").write_text("weights", "utf-8")
    for name in ("README.md", "certificate.json"):
        (attempt.evidence / name).write_text(name, "utf-8")
    payload, evidence = files_of(attempt)
    manifest = statement(
        stage="model_export", stage_version=1, key="key", attempt=attempt.name, payload=payload,
        evidence=evidence, inputs={}, spec={}, figures={}, code="c" * 64,
    )  # fmt: skip
    return commit(store, attempt, manifest)


def test_a_downloaded_export_has_card_certificate_and_manifest_beside_its_payload(
    store: Store, export: Artifact, tmp_path: Path
) -> None:
    download(store, export, tmp_path / "cache", tmp_path / "mine")
    found = {file.relative_to(tmp_path / "mine").as_posix() for file in (tmp_path / "mine").rglob("*.*")}
    assert found == {"README.md", "certificate.json", "manifest.json"}
    assert (tmp_path / "mine" / "adapter" / "weights").read_text("utf-8") == "weights"


def test_a_folder_with_something_in_it_is_not_written_into(
    store: Store, export: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        download(store, export, tmp_path / "cache", tmp_path / "mine")


def test_stored_bytes_that_changed_are_not_handed_out(store: Store, export: Artifact, tmp_path: Path) -> None:
    weights = export.folder(store, tmp_path) / "payload" / "adapter" / "weights"
    weights.write_text("WEIGHTS", "utf-8")
    with pytest.raises(UserError, match="other bytes"):
        download(store, export, tmp_path / "cache", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
