"""A general corpus of corpora/<name>.yaml, shared by all tenants, with a held-out part of its own.

Of a project and not of a variant, so it is made beside the stages of a variant: `make_corpora`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ft_dagster.data.sources.fingerprint import Fingerprint, Frozen, fingerprint_sources
from ft_dagster.records.record_keys import SHARED_OWNER, keys_of
from ft_dagster.records.record_tree import FIGURES
from ft_dagster.settings import Settings
from ft_dagster.spec import CorpusSpec, load_corpus
from ft_dagster.stage_entries import GENERAL_CORPUS
from ft_dagster.store import Artifact, Attempt, Store, write_head
from ft_dagster.store.make import Recipe, make_artifact
from ft_dagster.workspace.corpora import find_corpus, prefix_of_corpus


def make_corpora(settings: Settings, run_id: str, say: Callable[[str], None]) -> dict[str, Artifact]:
    """The artifact of each corpus of the project, by name. Raises UserError."""
    return {name: _make(settings, name, run_id, say) for name in _names(settings)}


def corpora_stand(settings: Settings) -> bool:
    """Whether `make_corpora` would find each of them as the newest. Raises UserError, also for damage."""
    store = settings.open_store()
    recipes = [_recipe(settings, name)[0] for name in _names(settings)]
    newest = [find_corpus(store, name) for name in _names(settings)]
    for corpus in newest:
        _check_bytes(settings, store, corpus)
    return [recipe.place for recipe in recipes] == [corpus.place for corpus in newest]


def _names(settings: Settings) -> list[str]:
    return sorted(file.stem for file in (settings.project / "corpora").glob("*.yaml"))


def _recipe(settings: Settings, name: str) -> tuple[Recipe, CorpusSpec, list[Fingerprint]]:
    """What a corpus would be made from now."""
    spec: CorpusSpec = load_corpus(settings.project, name)
    sources = fingerprint_sources(
        spec.sources,
        settings.project,
        declared_in=settings.project / "corpora" / f"{name}.yaml",
        field="sources",
        cache=settings.cache_folder,
    )
    parts = {"corpus": spec.model_dump(mode="json"), "sources": sources}
    return Recipe(GENERAL_CORPUS.name, prefix_of_corpus(name), spec=parts), spec, sources


def _make(settings: Settings, name: str, run_id: str, say: Callable[[str], None]) -> Artifact:
    recipe, spec, sources = _recipe(settings, name)

    def build(attempt: Attempt) -> dict[str, Any]:
        from ft_dagster.data.rows.corpus import build_general_corpus
        from ft_dagster.records.tree_growth import grow_tree

        figures = build_general_corpus(
            name, spec, settings.project, attempt.payload, say,
            evidence=attempt.evidence, frozen=Frozen(sources, settings.cache_folder),
        )  # fmt: skip
        key = keys_of(settings.keys_folder, SHARED_OWNER).current
        return {**figures, FIGURES: grow_tree(attempt.evidence, key).to_json()}

    store = settings.open_store()
    artifact = make_artifact(store, settings.work_folder, recipe, build)
    if artifact.reused:
        _check_bytes(settings, store, artifact)
    write_head(store, prefix_of_corpus(name), artifact, run_id)
    return artifact


def _check_bytes(settings: Settings, store: Store, corpus: Artifact) -> None:
    """Raises UserError for one that is not as it was made; one of a remote store is held when it is used."""
    if not store.remote:
        corpus.folder(store, settings.cache_folder)
