"""A general corpus of corpora/<name>.yaml, shared by all tenants, with a held-out part of its own.

Of a project and not of a variant, so it is made beside the stages of a variant: `make_corpora`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ft_dagster.data.corpus import build_general_corpus
from ft_dagster.data.fingerprint import Frozen, fingerprint_sources
from ft_dagster.settings import Settings
from ft_dagster.spec import CorpusSpec, load_corpus
from ft_dagster.stages.corpora import NAME, prefix_of_corpus
from ft_dagster.store import Artifact, Attempt, write_head
from ft_dagster.store.make import Recipe, make_artifact


def make_corpora(settings: Settings, run_id: str, say: Callable[[str], None]) -> dict[str, Artifact]:
    """The artifact of each corpus of the project, by name. Raises UserError."""
    names = sorted(file.stem for file in (settings.project / "corpora").glob("*.yaml"))
    return {name: _make(settings, name, run_id, say) for name in names}


def _make(settings: Settings, name: str, run_id: str, say: Callable[[str], None]) -> Artifact:
    spec: CorpusSpec = load_corpus(settings.project, name)
    project, cache = settings.project, settings.cache_folder
    declared_in = project / "corpora" / f"{name}.yaml"
    sources = fingerprint_sources(
        spec.sources, project, declared_in=declared_in, field="sources", cache=cache
    )

    def build(attempt: Attempt) -> dict[str, Any]:
        return build_general_corpus(
            name, spec, project, attempt.payload, say,
            evidence=attempt.evidence, frozen=Frozen(sources, cache),
        )  # fmt: skip

    store = settings.open_store()
    recipe = Recipe(
        NAME, prefix_of_corpus(name), spec={"corpus": spec.model_dump(mode="json"), "sources": sources}
    )
    artifact = make_artifact(store, settings.work_folder, recipe, build)
    write_head(store, prefix_of_corpus(name), artifact, run_id)
    return artifact
