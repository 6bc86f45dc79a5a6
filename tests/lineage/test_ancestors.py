"""From a digest to its artifact: what is damaged of others is in nobody's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_dagster.errors import UserError
from ft_dagster.lineage.ancestors import find_digest
from ft_dagster.store import Store
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
