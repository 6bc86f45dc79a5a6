"""Makes a general corpus of `corpora/<name>.yaml`, shared by all tenants, with a held-out part of its own.

Of a project and not of a variant, so it is made beside the stages of a variant: `make_corpora`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ft_dagster.data.sources.fingerprint import Fingerprint, Frozen, fingerprint_sources
from ft_dagster.errors import UserError
from ft_dagster.lineage.stale import StaleCause, stage_raised
from ft_dagster.records.record_keys import RESTORE, SHARED_OWNER, EvidenceKeys, RecordKey, keys_of
from ft_dagster.records.record_tree import FIGURES
from ft_dagster.records.refusals import refused_of
from ft_dagster.settings import Settings
from ft_dagster.spec import CorpusSpec, load_corpus
from ft_dagster.spec.load import corpus_file, corpus_files
from ft_dagster.spec.narrow import shown
from ft_dagster.stage_entries import GENERAL_CORPUS, version_of
from ft_dagster.store import Artifact, Attempt, Store, read_head, write_head
from ft_dagster.store.make import Recipe, make_artifact
from ft_dagster.workspace.corpora import find_corpus, prefix_of_corpus
from ft_dagster.workspace.keyed_inputs import differing

PLANTED = "canaries"  # of a corpus' key: the key that they were made by, by its name


def make_corpora(settings: Settings, run_id: str, say: Callable[[str], None]) -> dict[str, Artifact]:
    """Return the artifact of each corpus of the project, by name. Raises UserError."""
    return {name: _make(settings, name, run_id, say) for name in corpus_files(settings.project)}


def corpora_stand(settings: Settings) -> bool:
    """Say whether `make_corpora` would find each of them as the newest. Raises UserError, also for damage,
    and where the key is gone by which its canaries were made.
    """
    store = settings.open_store()
    for name, file in corpus_files(settings.project).items():
        newest = find_corpus(store, name)
        _, spec, sources = _recipe(settings, name)
        _check_bytes(settings, store, newest)
        read = zip(spec.sources, sources, newest.spec["sources"], strict=True)
        if corpus_causes(file, newest, spec, (source.path for source, now, then in read if now != then)):
            return False
    return True


def corpus_causes(
    file: Path, newest: Artifact, spec: CorpusSpec, others: Iterable[str]
) -> tuple[StaleCause, ...]:
    """Return why a corpus would be made again. `others`: of its sources' files those that are others than
    the newest artifact read; asked for where the sources are declared as they were.
    """
    declared = differing(newest.spec["corpus"], shown(spec))
    changed = [f"corpora/{file.name}: {'.'.join(path)}" for path in declared] or others
    causes = [StaleCause("corpus", what, f"{what} changed") for what in changed]
    then, now = int(newest.predicate["stage_version"]), version_of(GENERAL_CORPUS.name)
    return (*causes, *([stage_raised(GENERAL_CORPUS.name, then, now)] if then != now else []))


def _recipe(settings: Settings, name: str) -> tuple[Recipe, CorpusSpec, list[Fingerprint]]:
    """Return the recipe by which a corpus would be made now."""
    spec: CorpusSpec = load_corpus(settings.project, name)
    sources = fingerprint_sources(
        spec.sources,
        settings.project,
        declared_in=corpus_file(settings.project, name),
        field="sources",
        cache=settings.cache_folder,
    )
    parts = {"corpus": shown(spec), "sources": sources, **_planted_by(settings, name, spec)}
    return Recipe(GENERAL_CORPUS.name, prefix_of_corpus(name), spec=parts), spec, sources


def _planted_by(settings: Settings, name: str, spec: CorpusSpec) -> dict[str, str]:
    """Return the name of the key that canaries are made by, where any are: another key plants others. Raises
    UserError as `refuse_other_key`.
    """
    if spec.canaries is None:
        return {}
    refuse_other_key(settings, name)
    return {PLANTED: _oldest_key(settings).id}


def refuse_other_key(settings: Settings, name: str) -> None:
    """Raises UserError where the canaries of the newest corpus of that name were made by a key that is not
    here: made again, it would have others.
    """
    newest = _newest(settings, name)
    planted_by = None if newest is None else newest.spec.get(PLANTED)
    if planted_by is None or keys_of(settings.keys_folder, SHARED_OWNER).of_id(planted_by) is not None:
        return
    raise UserError(
        f"the platform's canaries of the corpus {name} were made by the key {planted_by} of what is shared, "
        "which is not here: by another key it would have other canaries, and all variants on it train again",
        file=settings.keys_folder,
        fix=f"{RESTORE}, or take canaries out of corpora/{name}.yaml",
    )


def stands_with_canaries(settings: Settings, name: str) -> bool:
    """Say whether the newest corpus of that name has the canaries that its file declares now."""
    newest, declared = _newest(settings, name), shown(load_corpus(settings.project, name))
    return newest is not None and newest.spec["corpus"].get("canaries") == declared.get("canaries")


def _newest(settings: Settings, name: str) -> Artifact | None:
    return read_head(settings.open_store(), prefix_of_corpus(name), GENERAL_CORPUS.name)


def _oldest_key(settings: Settings) -> RecordKey:
    """Return the platform's first key of what is shared: a rotation, which keeps it, plants no others."""
    return keys_of(settings.keys_folder, SHARED_OWNER).keys[-1]


def _make(settings: Settings, name: str, run_id: str, say: Callable[[str], None]) -> Artifact:
    recipe, spec, sources = _recipe(settings, name)

    def build(attempt: Attempt) -> dict[str, object]:
        from ft_dagster.data.rows.corpus import build_general_corpus
        from ft_dagster.records.sealed_rows import bind_records

        figures = build_general_corpus(
            name, spec, settings.project, attempt.payload, say,
            evidence=attempt.evidence, frozen=Frozen(sources, settings.cache_folder, erased),
            secret=_oldest_key(settings).secret if spec.canaries else b"",
        )  # fmt: skip
        key = keys_of(settings.keys_folder, SHARED_OWNER).current
        return {**figures, FIGURES: bind_records(attempt.evidence, EvidenceKeys(key, key)).to_json()}

    store = settings.open_store()
    erased = refused_of(store, settings.keys_folder, SHARED_OWNER).since
    artifact = make_artifact(store, settings.work_folder, recipe, build)
    if artifact.reused:
        _check_bytes(settings, store, artifact)
    write_head(store, prefix_of_corpus(name), artifact, run_id)
    return artifact


def _check_bytes(settings: Settings, store: Store, corpus: Artifact) -> None:
    """Raises UserError for one that is not as it was made; one of a remote store is held when it is used."""
    if not store.remote:
        corpus.folder(store, settings.cache_folder)
