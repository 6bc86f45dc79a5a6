"""What a version was made of is told after retention too: declarations go before their versions."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.garbage_collection import collect
from ft_dagster.lineage.graph import find_digest
from ft_dagster.lineage.reachable import unreached
from ft_dagster.lineage.release import history
from ft_dagster.lineage.retention import Rules
from ft_dagster.settings import Retention
from ft_dagster.stages.judging.export_lineage import SourceFile, made_of
from ft_dagster.store import Place, Store
from ft_dagster.store.contents import contents_of
from ft_dagster.store.removal import claim_removal, finish_removal
from tests.kept_project import OLD_PROJECT
from tests.present import present

PREFIXES = ("tenants/acme/places", "tenants/acme/colours", "tenants/globex/places")
DAY = 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(shutil.copytree(OLD_PROJECT / "store", tmp_path / "store")))


def nobody(place: Place) -> bool:
    return False


def collected(store: Store) -> list[Place]:
    """What retention removes, by the built-in settings, in a month."""
    rules = Rules(lambda tenant: Retention(), time.time() + 30 * DAY)
    found = unreached(store, contents_of(store), nobody, rules)
    return [outcome.of.place for outcome in collect(store, found, nobody, rules) if outcome.removed]


def files(store: Store) -> dict[tuple[str, str], tuple[SourceFile, ...]]:
    """Of every version that was ever released."""
    exports = {(prefix, entry.export) for prefix in PREFIXES for entry in history(store, prefix)}
    return {
        (prefix, digest): made_of(
            store, prefix, present(find_digest(store, [prefix], "model_export", digest))
        ).files
        for prefix, digest in exports
    }


def test_the_files_of_a_version_are_named_after_retention_removed_its_declaration(store: Store) -> None:
    before = files(store)
    assert all(before.values())
    assert "declaration" in {place.stage for place in collected(store)}
    for keyed in contents_of(store).keyed.values():
        if keyed.artifact is not None and keyed.place.stage == "declaration":
            assert claim_removal(store, keyed.artifact, "retention", time.time())
            finish_removal(store, keyed.artifact)
    assert files(store) == before


def test_what_is_left_of_a_declaration_is_held_against_its_key(store: Store) -> None:
    collected(store)
    for prefix in PREFIXES:
        store.remove([f"{prefix}/heads/declaration.json"])
        for manifest in Path(store.path(f"{prefix}/declaration")).glob("*/manifest.json"):
            manifest.write_text(manifest.read_text("utf-8").replace("data/", "others/"), "utf-8")
    with pytest.raises(UserError, match=r"its key is not that of what it was made from"):
        files(store)


def test_a_damaged_head_of_the_declaration_hides_no_files(store: Store) -> None:
    before = files(store)
    for prefix in PREFIXES:
        store.write(f"{prefix}/heads/declaration.json", b"{")
    assert files(store) == before
