"""Finds the general corpora, which all tenants share, and the newest of one."""

from __future__ import annotations

from ft_dagster.errors import UserError
from ft_dagster.stage_entries import GENERAL_CORPUS
from ft_dagster.store import SHARED, Artifact, Store, read_head


def prefix_of_corpus(name: str) -> str:
    """Return the part of the store that holds one corpus."""
    return f"{SHARED}/corpora/{name}"


def find_corpus(store: Store, name: str) -> Artifact:
    """Return the newest artifact of a corpus. Raises UserError."""
    artifact = read_head(store, prefix_of_corpus(name), GENERAL_CORPUS.name)
    if artifact is None:
        raise UserError(
            "this corpus has not been prepared",
            field="data.general.corpus",
            value=name,
            fix="Materialize general_corpus first",
        )
    return artifact
