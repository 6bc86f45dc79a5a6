"""Opens the witness at an address, as a host of a project does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ft_dagster.store import Store
from ft_dagster.store.witness import Witnesses
from ft_dagster.store.witness_places import open_witnesses
from tests.store.signing_keys import SIGNS, trust

A, FIRST = "tenants/acme/a", "1" * 64
"""A log, and what stands for the sha256 of its first entry."""


def opened(address: str, host: Path, **more: Any) -> Witnesses:
    """As a host of the project opens it."""
    store = Store(str(host.parent / "store"))
    root = trust(SIGNS)
    root = type(root)(root.file, 1, root.keys, witnesses=(address,), signer=SIGNS, **more)
    open_witnesses(root, store, str, host.parent / "keys", host)
    assert isinstance(store.witnesses, Witnesses)
    return store.witnesses
