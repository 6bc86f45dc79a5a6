"""Where a variant's newest model lies on this machine."""

from __future__ import annotations

import json
from pathlib import Path

from ft_dagster.data.base import locate_base
from ft_dagster.errors import UserError
from ft_dagster.report.summary import prefix
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.store import read_head


def newest_model(settings: Settings, key: VariantKey) -> tuple[Path, Path]:
    """(base folder, adapter folder) of the newest trained weights. Raises UserError before the first."""
    store = settings.open_store()
    tuned = read_head(store, prefix(key), "fine_tuned_model")
    base = read_head(store, prefix(key), "base_model")
    if tuned is None or base is None:
        raise UserError(f"{key} has no trained model yet", fix=f"Run `ft-dagster run {key}` first")
    payload = base.folder(store, settings.cache_folder) / "payload"
    content = json.loads((payload / "base.json").read_text("utf-8"))
    located = locate_base(content, settings.project, settings.cache_folder)
    return located, tuned.folder(store, settings.cache_folder) / "payload"
