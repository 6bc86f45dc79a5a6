"""Where a variant's newest model lies on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ft_dagster.data.derived import base_folder
from ft_dagster.errors import UserError
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.store import read_head

CONVERSATIONS = {"chat", "alpaca", "sharegpt"}


class NewestModel(NamedTuple):
    """Newest trained weights (`tuned`: their payload folder, of any kind) and their base.

    `chat` says that their rows were conversations, not plain prompts or texts.
    """

    base: Path
    tuned: Path
    chat: bool


def newest_model(settings: Settings, key: VariantKey) -> NewestModel:
    """Where the newest trained weights of a variant lie. Raises UserError before the first."""
    store = settings.open_store()
    tuned = read_head(store, key.prefix, "fine_tuned_model")
    base = read_head(store, key.prefix, "base_model")
    rows = read_head(store, key.prefix, "task_dataset")
    if tuned is None or base is None or rows is None:
        raise UserError(f"{key} has no trained model yet", fix=f"Run `ft-dagster run {key}` first")
    located = base_folder(store, base, settings.project, settings.cache_folder)
    chat = any(format in CONVERSATIONS for format in rows.figures["formats"].values())
    return NewestModel(located, tuned.folder(store, settings.cache_folder) / "payload", chat)
