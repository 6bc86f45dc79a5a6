"""Look at everything a declaration names before any work is done."""

from __future__ import annotations

from itertools import islice
from typing import Any

from ft_dagster.data.base import resolve_base
from ft_dagster.data.locations import Asked
from ft_dagster.data.sources import read_raw, read_rows
from ft_dagster.evaluation.tasks import tasks_digest
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey, load_corpus, load_variant

ROWS = 100


def check_variant(settings: Settings, key: VariantKey) -> dict[str, Any]:
    """Read a declaration, its base, corpus, tasks and the first rows of each source. Raises UserError."""
    declared = load_variant(settings.project, key)
    spec = declared.spec
    base = resolve_base(spec.base_model, settings.project, settings.cache_folder, declared_in=declared.file)
    if spec.data.general is not None:
        corpus = load_corpus(settings.project, spec.data.general.corpus, asked_by=declared.file)
        corpus_file = settings.project / "corpora" / f"{spec.data.general.corpus}.yaml"
        for i, source in enumerate(corpus.sources):
            list(islice(read_raw(source, settings.project, Asked(corpus_file, f"sources[{i}]")), ROWS))
    tasks = tasks_digest([*spec.evaluation.task, *spec.evaluation.general], settings.project)
    rows = []
    for i, source in enumerate(spec.data.sources):
        asked = Asked(declared.file, f"data.sources[{i}]")
        rows.append(len(list(islice(read_rows(source, settings.project, asked), ROWS))))
    seen = f"{sum(rows)} rows read" if max(rows) < ROWS else f"the first {ROWS} rows of each source read"
    return {
        "base_model": base.content["architecture"],
        "sources": len(rows),
        "tasks": sorted(tasks),
        "summary": f"{base.content['architecture']}, {len(rows)} sources, {len(tasks)} tasks; {seen}",
    }
