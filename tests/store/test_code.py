import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ft_dagster.errors import UserError
from ft_dagster.provenance import code
from ft_dagster.provenance.code import source_digest
from ft_dagster.store import Attempt, Store, find_artifact
from ft_dagster.store.make import Recipe, keep_source, make_artifact

RECIPE = Recipe("task_dataset", "tenants/acme/support", {"sources": "a" * 64}, {"data": 1}, "acme.support")


def test_the_source_is_kept_once_and_unpacks_to_the_package(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    digest = keep_source(store)
    assert digest == keep_source(store) == source_digest()
    (name,) = store.names("shared/code")
    with tarfile.open(fileobj=io.BytesIO(store.read(f"shared/code/{name}"))) as tar:
        names = tar.getnames()
    assert "ft_dagster/provenance/code.py" in names
    assert not any("__pycache__" in name for name in names)


def test_the_source_is_kept_before_an_artifact_is_built(tmp_path: Path) -> None:
    store, kept = Store(str(tmp_path / "store")), list[str]()

    def build(attempt: Attempt) -> dict[str, Any]:
        kept.extend(store.names("shared/code"))
        (attempt.payload / "rows").write_text("a")
        return {}

    made = make_artifact(store, tmp_path / "work", RECIPE, build)
    assert kept == [f"{made.predicate['code']['sha256']}.tar.gz"]


def test_nothing_is_built_by_a_process_whose_source_changed_since_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "store"))
    digest = source_digest()
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "module.py").write_text("VALUE = 2\n")
    code.source_archive.cache_clear()
    with pytest.raises(UserError, match="changed while this process ran"):
        make_artifact(store, tmp_path / "work", RECIPE, lambda attempt: pytest.fail("it was built"))
    code.source_archive.cache_clear()
    assert source_digest() == digest
    assert find_artifact(store, RECIPE.place) is None
    assert not store.exists(f"shared/code/{digest}.tar.gz")
