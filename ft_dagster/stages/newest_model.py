"""Where a variant's newest model lies on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.lineage.ancestors import find_digest
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.stages.rendering import RENDERING, has_conversations
from ft_dagster.stages.workspace import Workspace
from ft_dagster.store import Artifact


class NewestModel(NamedTuple):
    """Newest trained weights (`tuned`: their payload folder, of any kind) and their base.

    `chat` says that their rows were rendered as conversations, not as plain prompts or texts.
    """

    base: Path
    tuned: Path
    chat: bool


def newest_model(settings: Settings, key: VariantKey) -> NewestModel:
    """Where the newest trained weights of a variant lie. Raises UserError before the first."""
    workspace = Workspace(settings, key, looking=True)
    tuned, base = workspace.head("fine_tuned_model"), workspace.head("base_model")
    rows = workspace.head("task_dataset")
    if tuned is None or base is None or rows is None:
        raise UserError(f"{key} has no trained model yet", fix=f"Run `ft-dagster run {key}` first")
    chat = _rendering_of(workspace, tuned) is not None or has_conversations(workspace, rows)
    return NewestModel(workspace.base_folder(base), workspace.payload(tuned), chat)


def _rendering_of(workspace: Workspace, tuned: Artifact) -> str | None:
    """How the prompts with completions that these weights learned were rendered, where they were no plain
    text.
    """
    digest = tuned.inputs["training_mixture"]
    mixture = find_digest(workspace.store, (workspace.prefix,), "training_mixture", digest)
    rendering = None if mixture is None else mixture.spec.get(RENDERING)
    return None if rendering is None else str(rendering)
