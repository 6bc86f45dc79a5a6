"""Describes models as programs are to read them: where their files lie, and what these have to be."""

from __future__ import annotations

from ft_dagster.evaluation.request import BaseFiles, TunedWeights
from ft_dagster.store import Artifact
from ft_dagster.workspace.build_context import BuildContext


def base_of(base: Artifact, context: BuildContext) -> BaseFiles:
    """Return a base_model as loading reads it, file by file."""
    return BaseFiles(folder=context.base_folder(base), files=context.base_files(base))


def whole_model(export: Artifact, context: BuildContext) -> BaseFiles:
    """Return an export that is a whole model, as the base of another."""
    files = {file["path"]: file["sha256"] for file in export.predicate["payload"]}
    return BaseFiles(folder=context.payload(export), files=files)


def weights_of(tuned: Artifact, context: BuildContext) -> TunedWeights:
    """Return what a training made, or its export."""
    return TunedWeights(folder=context.payload(tuned), digest=tuned.digest)
