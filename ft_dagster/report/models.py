"""Where a variant's newest model lies on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from ft_dagster.data.base import locate_base
from ft_dagster.errors import UserError
from ft_dagster.report.summary import prefix
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.store import read_head

CONVERSATIONS = {"chat", "alpaca", "sharegpt"}


class Model(NamedTuple):
    """Newest trained weights; `chat` says that their rows were conversations, not plain prompts or texts."""

    base: Path
    adapter: Path
    chat: bool


def newest_model(settings: Settings, key: VariantKey) -> Model:
    """Where the newest trained weights of a variant lie. Raises UserError before the first."""
    store = settings.open_store()
    tuned = read_head(store, prefix(key), "fine_tuned_model")
    base = read_head(store, prefix(key), "base_model")
    rows = read_head(store, prefix(key), "task_dataset")
    if tuned is None or base is None or rows is None:
        raise UserError(f"{key} has no trained model yet", fix=f"Run `ft-dagster run {key}` first")
    payload = base.folder(store, settings.cache_folder) / "payload"
    content = json.loads((payload / "base.json").read_text("utf-8"))
    located = locate_base(content, settings.project, settings.cache_folder)
    chat = any(format in CONVERSATIONS for format in rows.figures["formats"].values())
    return Model(located, tuned.folder(store, settings.cache_folder) / "payload", chat)
