"""What lies in a store, and what each part of it occupies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ft_dagster.row_choices import UsageBy
from ft_dagster.store import Attempt, Place, Store, begin_attempt, write_head
from ft_dagster.store.contents import RECORDS, contents_of, usage
from ft_dagster.store.make import Recipe, make_artifact
from tests.releases import put
from tests.stage_version import set_version

PREFIX = "tenants/acme/support"


def sizes(store: Store) -> list[int]:
    """Bytes of all files, by the file system alone."""
    return [store.fs.size(path) for path in store.fs.find(store.root)]


@pytest.mark.slow
@pytest.mark.parametrize("by", UsageBy)
def test_every_byte_is_in_one_row(any_store: Store, tmp_path: Path, by: UsageBy) -> None:
    base = put(any_store, "base_model", "shared", {"base.json": 1}, {}, work=tmp_path)
    for variant in ("support", "sales"):
        rows = {"rows.json": [variant] * 100}
        made = put(
            any_store, "task_dataset", f"tenants/acme/{variant}", rows, {"base": base.digest}, work=tmp_path
        )
        write_head(any_store, f"tenants/acme/{variant}", made, None)
    rows_of = {row.name: row for row in usage(contents_of(any_store), by)}
    names = {
        UsageBy.TENANT: {"acme", "shared"},
        UsageBy.VARIANT: {"acme.support", "acme.sales", "shared"},
        UsageBy.STAGE: {"task_dataset", "base_model", RECORDS},
    }
    assert set(rows_of) == names[by]
    assert sum(row.bytes for row in rows_of.values()) == sum(sizes(any_store))
    assert sum(row.artifacts for row in rows_of.values()) == 3


def test_an_empty_store_has_no_rows(store: Store) -> None:
    assert usage(contents_of(store), UsageBy.TENANT) == []


def test_what_an_older_version_of_a_stage_made_is_counted_apart(
    any_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(any_store, "task_dataset", PREFIX, {"rows.json": [1] * 100}, {}, work=tmp_path)
    (row,) = [row for row in usage(contents_of(any_store), UsageBy.STAGE) if row.name == "task_dataset"]
    assert row.older_versions == 0
    set_version(monkeypatch, "task_dataset", 99)
    (older,) = [row for row in usage(contents_of(any_store), UsageBy.STAGE) if row.name == "task_dataset"]
    assert older.older_versions == older.bytes == row.bytes > 0
    put(any_store, "task_dataset", PREFIX, {"rows.json": [1] * 100}, {}, work=tmp_path)
    (both,) = [row for row in usage(contents_of(any_store), UsageBy.STAGE) if row.name == "task_dataset"]
    assert (both.artifacts, both.older_versions) == (2, row.bytes)


def test_a_kept_base_is_counted_apart(any_store: Store, tmp_path: Path) -> None:
    def build(attempt: Attempt) -> dict[str, Any]:
        (attempt.payload / "base.json").write_text("{}")
        copy = attempt.evidence / "files" / "model.safetensors"
        copy.parent.mkdir()
        copy.write_bytes(b"w" * 1000)
        return {}

    make_artifact(any_store, tmp_path, Recipe("base_model", "shared"), build)
    (row,) = [row for row in usage(contents_of(any_store), UsageBy.STAGE) if row.name == "base_model"]
    assert row.kept_bases == 1000


def test_an_attempt_that_nothing_committed_is_counted_apart(store: Store, tmp_path: Path) -> None:
    place = Place(PREFIX, "training_mixture", "a" * 64)
    attempt = begin_attempt(store, place, tmp_path)
    (attempt.payload / "shard").write_bytes(b"s" * 500)
    (row,) = usage(contents_of(store), UsageBy.VARIANT)
    assert (row.name, row.artifacts, row.bytes, row.unfinished) == ("acme.support", 0, 500, 500)


def test_a_damaged_manifest_is_named_and_its_bytes_count(any_store: Store, tmp_path: Path) -> None:
    made = put(any_store, "task_dataset", PREFIX, {"rows.json": [1]}, {}, work=tmp_path)
    any_store.write(made.place.manifest, b"{")
    found = contents_of(any_store)
    assert "not JSON" in str(found.keyed[made.place].damaged)
    assert sum(row.bytes for row in usage(found, UsageBy.TENANT)) == sum(sizes(any_store))


def test_links_are_not_followed(store: Store, tmp_path: Path) -> None:
    put(store, "task_dataset", PREFIX, {"rows.json": [1]}, {}, work=tmp_path)
    before = sum(row.bytes for row in usage(contents_of(store), UsageBy.TENANT))
    (tmp_path / "elsewhere").write_bytes(b"e" * 100_000)
    (Path(store.root) / PREFIX / "link").symlink_to(tmp_path / "elsewhere")
    (Path(store.root) / PREFIX / "loop").symlink_to(Path(store.root))
    assert sum(row.bytes for row in usage(contents_of(store), UsageBy.TENANT)) < before + 10_000
