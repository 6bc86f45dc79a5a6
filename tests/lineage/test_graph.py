"""From a digest to its artifact: what is damaged of others is in nobody's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.graph import find_digest
from ft_dagster.store import Store
from ft_dagster.store.attempts import digests_folder
from tests.present import present
from tests.releases import put


def test_a_damaged_manifest_hides_no_other_artifact(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    bases = [put(store, "base_model", "shared", {"base.json": number}, {}) for number in range(3)]
    store.write(bases[1].place.manifest, b"{")
    for base in (bases[0], bases[2]):
        found = find_digest(store, ["shared"], "base_model", base.digest)
        assert present(found).place == base.place
    with pytest.raises(UserError, match="not JSON"):
        find_digest(store, ["shared"], "base_model", bases[1].digest)
    assert find_digest(store, ["tenants/acme/support"], "base_model", bases[1].digest) is None


@pytest.mark.parametrize("history", [2, 40])
def test_what_it_reads_does_not_grow_with_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, history: int
) -> None:
    store = Store(str(tmp_path / "store"))
    bases = [put(store, "base_model", "shared", {"base.json": number}, {}) for number in range(history)]
    asked: list[str] = []
    names, read = Store.names, Store.read

    def count_names(self: Store, path: str) -> list[str]:
        asked.append(path)
        return names(self, path)

    def count_read(self: Store, path: str) -> bytes:
        asked.append(path)
        return read(self, path)

    monkeypatch.setattr(Store, "names", count_names)
    monkeypatch.setattr(Store, "read", count_read)
    found = find_digest(store, ["tenants/acme/support", "shared"], "base_model", bases[0].digest)
    assert present(found).place == bases[0].place
    assert len(asked) == 3
    assert not any(path.endswith("/base_model") for path in asked)


def test_what_was_not_noted_is_found_by_looking_at_all_and_then_it_is(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    base = put(store, "base_model", "shared", {"base.json": 1}, {})
    folder = digests_folder("shared", "base_model", base.digest)
    store.remove([f"{folder}/{base.place.key}"])
    assert present(find_digest(store, ["shared"], "base_model", base.digest)).place == base.place
    assert store.names(folder) == [base.place.key]


def test_a_note_that_leads_nowhere_or_elsewhere_is_passed_over(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    base, other = (put(store, "base_model", "shared", {"base.json": number}, {}) for number in (1, 2))
    folder = digests_folder("shared", "base_model", base.digest)
    for key in ("0" * 64, other.place.key, "0"):
        store.write(f"{folder}/{key}", b"")
    assert present(find_digest(store, ["shared"], "base_model", base.digest)).place == base.place


def test_of_equal_bytes_it_is_that_whose_manifest_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    same = [put(store, "evaluation_texts", "shared", {"before.json": {}}, {"rows": rows}) for rows in "abc"]
    assert len({each.digest for each in same}) == 1
    for each in same:
        found = find_digest(store, ["shared"], "evaluation_texts", each.digest, each.manifest)
        assert present(found).place == each.place
    assert find_digest(store, ["shared"], "evaluation_texts", same[0].digest, "0" * 64) is not None
