"""Models as programs are to read them: where their files lie, and what these have to be."""

from __future__ import annotations

from ft_dagster.evaluation.request import BaseFiles, TunedWeights
from ft_dagster.stages.hands import Hands
from ft_dagster.store import Artifact


def base_of(base: Artifact, hands: Hands) -> BaseFiles:
    """A base_model: what loading reads, file by file."""
    return BaseFiles(folder=hands.base_folder(base), files=hands.base_files(base))


def whole_model(export: Artifact, hands: Hands) -> BaseFiles:
    """An export that is a whole model, as the base of another."""
    files = {file["path"]: file["sha256"] for file in export.predicate["payload"]}
    return BaseFiles(folder=hands.payload(export), files=files)


def weights_of(tuned: Artifact, hands: Hands) -> TunedWeights:
    """What a training made, or its export."""
    return TunedWeights(folder=hands.payload(tuned), digest=tuned.digest)
