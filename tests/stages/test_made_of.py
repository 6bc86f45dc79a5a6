"""What a version was made of is told after retention too: declarations go before their versions."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.ancestors import find_digest
from ft_dagster.lineage.collect import collect
from ft_dagster.lineage.reachable import unreached
from ft_dagster.lineage.release import history
from ft_dagster.lineage.retention import Rules
from ft_dagster.settings import Retention
from ft_dagster.stages.made_of import SourceFile, made_of
from ft_dagster.store import Place, Store
from ft_dagster.store.contents import contents_of
from ft_dagster.store.removal import claim_removal, finish_removal
from tests.present import present

OLD_STORE = Path(__file__).resolve().parents[1] / "compat" / "store_0_1" / "store"
PREFIXES = ("tenants/acme/places", "tenants/acme/colours", "tenants/globex/places")
DAY = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(shutil.copytree(OLD_STORE, tmp_path / "store")))


def nobody(place: Place) -> bool:
    return False


def collected(store: Store) -> list[Place]:
    """What retention removes, by the built-in settings, in a month."""
    rules = Rules(lambda tenant: Retention(), time.time() + 30 * DAY)
    found = unreached(store, contents_of(store), nobody, rules)
    return [outcome.of.place for outcome in collect(store, found, nobody, rules) if outcome.removed]


def files(store: Store, cache: Path) -> dict[tuple[str, str], tuple[SourceFile, ...]]:
    """Of every version that was ever released."""
    exports = {(prefix, entry.export) for prefix in PREFIXES for entry in history(store, prefix)}
    return {
        (prefix, digest): made_of(
            store, prefix, present(find_digest(store, [prefix], "model_export", digest)), cache
        ).files
        for prefix, digest in exports
    }


def test_the_files_of_a_version_are_named_after_retention_removed_its_declaration(
    store: Store, tmp_path: Path
) -> None:
    before = files(store, tmp_path / "cache")
    assert all(before.values())
    assert "declaration" in {place.stage for place in collected(store)}
    for keyed in contents_of(store).keyed.values():
        if keyed.artifact is not None and keyed.place.stage == "declaration":
            assert claim_removal(store, keyed.artifact, "retention", time.time())
            finish_removal(store, keyed.artifact)
    assert files(store, tmp_path / "cache") == before


def test_what_is_left_of_a_declaration_is_held_against_its_manifest(store: Store, tmp_path: Path) -> None:
    gone = [place for place in collected(store) if place.stage == "declaration"]
    for place in gone:
        for file in Path(store.path(place.path)).rglob("declaration.json"):
            file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"declaration\.json: a stored file has other bytes"):
        files(store, tmp_path / "cache")
