"""Finds a variant's newest model on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.settings import Settings
from ft_dagster.spec import VariantKey
from ft_dagster.stage_entries import BASE_MODEL, FINE_TUNED_MODEL, TASK_DATASET, TRAINING_MIXTURE
from ft_dagster.stages.judging.export_lineage import artifacts_of
from ft_dagster.workspace.rendered_prompts import RENDERING, has_conversations
from ft_dagster.workspace.workspace import Workspace


class NewestModel(NamedTuple):
    """Holds the newest trained weights (`tuned`: their payload folder, of any kind) and the base they were
    trained on.

    `chat` says that their rows were rendered as conversations, not as plain prompts or texts.
    """

    base: Path
    tuned: Path
    chat: bool


def newest_model(settings: Settings, key: VariantKey) -> NewestModel:
    """Return where the newest trained weights of a variant lie, and what they were made of, whatever was made
    since. Raises UserError before the first, and where they are gone.
    """
    workspace = Workspace(settings, key, looking=True)
    tuned = workspace.head(FINE_TUNED_MODEL.name)
    if tuned is None:
        raise UserError(f"{key} has no trained model yet", fix=f"Run `ft-dagster run {key}` first")
    made = artifacts_of(workspace.store, workspace.prefix, tuned)
    try:
        base, mixture, rows = (
            made[stage] for stage in (BASE_MODEL.name, TRAINING_MIXTURE.name, TASK_DATASET.name)
        )
    except KeyError as gone:
        problem = f"the {gone.args[0]} that the newest weights of {key} were made of is gone"
        raise UserError(problem, fix=f"Run `ft-dagster run {key}` again") from None
    chat = mixture.spec.get(RENDERING) is not None or has_conversations(workspace.context, rows)
    return NewestModel(workspace.base_folder(base), workspace.payload(tuned), chat)
