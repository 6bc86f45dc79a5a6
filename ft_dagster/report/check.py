"""Look at everything a declaration names before any work is done."""

from __future__ import annotations

from itertools import islice
from typing import Any

from ft_dagster.data.base import resolve_base
from ft_dagster.data.derived import check_adapter, parent_prefix, released_parent
from ft_dagster.data.locations import Asked
from ft_dagster.data.new_tokens import check_tokens, pieces_of
from ft_dagster.data.sources import read_raw, read_rows
from ft_dagster.evaluation.tasks import tasks_digest
from ft_dagster.lineage.release import production
from ft_dagster.settings import Settings
from ft_dagster.spec import Declared, VariantKey, load_corpus, load_variant

ROWS = 100


def check_variant(settings: Settings, key: VariantKey) -> dict[str, Any]:
    """Read a declaration, its base, corpus, tasks and the first rows of each source. Raises UserError."""
    declared = load_variant(settings.project, key)
    spec = declared.spec
    base = _check_base(settings, declared)
    if spec.data.general is not None:
        corpus = load_corpus(settings.project, spec.data.general.corpus, asked_by=declared.file)
        corpus_file = settings.project / "corpora" / f"{spec.data.general.corpus}.yaml"
        for i, source in enumerate(corpus.sources):
            list(islice(read_raw(source, settings.project, Asked(corpus_file, f"sources[{i}]")), ROWS))
    tasks: dict[str, str] = {}
    for role in ("task", "general"):
        entries, field = getattr(spec.evaluation, role), f"evaluation.{role}"
        tasks |= tasks_digest(entries, settings.project, field=field, asked_by=declared.file)
    rows = []
    for i, source in enumerate(spec.data.sources):
        asked = Asked(declared.file, f"data.sources[{i}]")
        rows.append(len(list(islice(read_rows(source, settings.project, asked), ROWS))))
    seen = f"{sum(rows)} rows read" if max(rows) < ROWS else f"the first {ROWS} rows of each source read"
    return {
        "base_model": base,
        "sources": len(rows),
        "tasks": sorted(tasks),
        "summary": f"{base}, {len(rows)} sources, {len(tasks)} tasks; {seen}",
    }


def _check_base(settings: Settings, declared: Declared) -> str:
    """What training would start from, in words; its new tokens are tried on its tokenizer."""
    spec, store, cache = declared.spec.base_model, settings.open_store(), settings.cache_folder
    check_tokens(spec.new_tokens, file=declared.file)
    if spec.variant is None:
        base = resolve_base(spec, settings.project, cache, declared_in=declared.file)
        folder, said = base.folder, str(base.content["architecture"])
    elif production(store, parent_prefix(declared.key, VariantKey.parse(spec.variant))) is None:
        return f"starts from {spec.variant}, which is not released yet: run that first"
    else:
        parent = released_parent(store, declared.key, spec, file=declared.file)
        folder = parent.export.folder(store, cache) / "payload"
        if parent.mode != "whole":
            check_adapter(parent, folder, file=declared.file)
        said = f"{parent.key} v{parent.version} ({parent.mode})"
    if spec.new_tokens:
        from ft_dagster.data.render import load_tokenizer

        pieces_of(spec.new_tokens, load_tokenizer(folder), file=declared.file)
        said += f" with {len(spec.new_tokens)} new tokens"
    return said
