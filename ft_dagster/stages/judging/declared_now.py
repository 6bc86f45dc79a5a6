"""Gives a workspace the declaration as it is now, whatever was frozen when the last run began.

A release is judged by what is declared on its day: more questions, another benchmark or another seed demand
another evaluation, and no other is taken for it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeVar, get_args

from ft_dagster.errors import UserError
from ft_dagster.evaluation.models.arithmetic import Dtype
from ft_dagster.lineage.reachable import PRODUCTION
from ft_dagster.stage_entries import (
    ANCESTOR_OVERLAP,
    FINE_TUNED_MODEL,
    RELEASE,
    RELEASE_EVALUATION,
    UNSAID_TOKENS,
)
from ft_dagster.stages import base_evaluation, evaluation
from ft_dagster.stages.declaration import freeze_tasks
from ft_dagster.store import Artifact, find_artifact
from ft_dagster.store.removal import keep
from ft_dagster.workspace.answer_engine import Engine
from ft_dagster.workspace.keyed_inputs import differing, key_parts, parts_of
from ft_dagster.workspace.stage import Stage
from ft_dagster.workspace.workspace import Workspace, refuse_experiment

I = TypeVar("I")  # noqa: E741
_EVALUATION, _BEFORE = evaluation.STAGE.name, base_evaluation.STAGE.name
NEEDED = (
    *PRODUCTION,
    UNSAID_TOKENS.name,
    ANCESTOR_OVERLAP.name,
)  # what a release needs beside the chain's artifacts


@dataclass(frozen=True)
class DeclaredWorkspace(Workspace):
    """Demands what is declared now of the store, and makes nothing itself. `makes`: it makes what is
    `NEEDED`: the answers by which a new version is held against production, and the look for new tokens in
    today's tasks. Device, arithmetic and engine are those of the newest evaluation, wherever it ran.
    """

    makes: bool = False

    @cached_property
    def frozen(self) -> dict[str, Any]:
        """Return the parts of declaration.json that an evaluation is made from, as they would be frozen
        now.
        """
        declared = self.declared()
        return {
            "spec": declared.spec.model_dump(mode="json"),
            "tasks": freeze_tasks(declared, self.project, self.roots),
        }

    @property
    def device(self) -> str:
        said = self._newest.get("device")
        return str(said) if said in ("cpu", "cuda") else super().device

    @property
    def dtype(self) -> Dtype:
        said = self._newest.get("dtype")
        return next((known for known in get_args(Dtype) if known == said), super().dtype)

    @property
    def engine(self) -> Engine:
        return self.engine_of(self._newest)

    def upstream(self, stage: str) -> Artifact:
        return self.find(base_evaluation.STAGE) if stage == _BEFORE else super().upstream(stage)

    def make(self, stage: Stage[I]) -> Artifact:
        if stage.name not in NEEDED:
            return self.find(stage)
        if self.makes:
            return super().make(stage)
        found = find_artifact(self.store, self.recipe(stage)[0].place)
        if found is None or not (self.looking or keep(self.store, found)):
            raise UserError(
                f"the {stage.name} that a release needs now is not there: production or the declaration "
                f"changed since {RELEASE_EVALUATION.name}, or nothing was judged yet",
                file=self.declared_in,
                fix=f"Materialize {RELEASE_EVALUATION.name}, then {RELEASE.name}",
            )
        return found

    def find(self, stage: Stage[Any]) -> Artifact:
        """Return the artifact that is demanded now. Raises UserError that names the inputs which changed."""
        recipe, inputs = self.recipe(stage)
        found = find_artifact(self.store, recipe.place)
        if found is None:
            newest = self.head(stage.name) or self.head(_EVALUATION)
            changed = what_changed(inputs, newest) or f"the version of {stage.name}"
            part = parts_of(inputs).get(changed)
            words = "" if part is None else part.words.format(stage=stage.name)
            raise UserError(
                words or f"{changed} changed after the evaluation: the declaration of today demands another",
                file=self.declared_in,
                fix="Materialize declaration, base_evaluation and evaluation again",
            )
        return found

    @property
    def _newest(self) -> dict[str, Any]:
        """Return the values that the key of the newest evaluation covers beside digests."""
        head = self.head(_EVALUATION)
        return {} if head is None else dict(head.spec)


def declared_workspace(workspace: Workspace, *, makes: bool = False) -> DeclaredWorkspace:
    """Return the same workspace with the declaration as it is now."""
    return DeclaredWorkspace(
        **{each.name: getattr(workspace, each.name) for each in fields(Workspace)}, makes=makes
    )


def refuse_unjudged(workspace: Workspace) -> None:
    """Raises UserError unless the newest evaluation is the one that today's declaration demands."""
    refuse_experiment(workspace)
    workspace.upstream(FINE_TUNED_MODEL.name)
    if declared_workspace(workspace).find(evaluation.STAGE).place != workspace.upstream(_EVALUATION).place:
        raise UserError(
            "the newest evaluation is not the one that the declaration of today demands",
            file=workspace.declared_in,
            fix="Materialize declaration, base_evaluation and evaluation again",
        )


def what_changed(inputs: Any, head: Artifact | None) -> str:
    """Say which parts of the key of a stage's inputs are others than in that of `head`: as they are declared,
    else by their own names. Empty where none is.
    """
    if head is None:
        return ""
    parts, now = parts_of(inputs), key_parts(inputs)
    then, named = {**head.spec, **head.inputs}, set[str]()
    for name, *below in differing(then, {**now.spec, **now.inputs}):
        if name in parts:
            is_declared = name.rpartition(".")[2] in ("spec", "tasks")  # field by field, entry by entry
            named.add(".".join(below if below and is_declared else (name, *below)))
    whole = sorted(name for name in named if not any(other.startswith(f"{name}.") for other in named))
    return ", ".join(whole)
