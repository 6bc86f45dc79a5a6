"""Computes training methods, one file each, found by the name that plan.json's `method` has.

`<name>.py` holds the class of that name in capitals, without underscores: `lora_8bit.py` has `Lora8bit`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ft_dagster.methods import method_of
from ft_dagster.methods.method import Quantization
from ft_dagster.methods.settings import MethodSettings
from ft_dagster.training.contract import Base, Plan

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ft_dagster.training.batches.mixture import Examples

    Weights = dict[str, Tensor]

Precision = Literal["bf16", "fp32"]


class TaughtBy(ABC):
    """Builds the model that a method trains, and saves it; made of the `method` part of plan.json."""

    def __init__(self, settings: MethodSettings) -> None:
        self.name = settings.name
        self.known = method_of(settings.name)

    @property
    def quantization(self) -> Quantization | None:
        """Return how the method quantizes its frozen base."""
        return self.known.quantization

    @abstractmethod
    def build(self, base: Base, precision: Precision, seed: int) -> PreTrainedModel:
        """Return the model, trained weights in fp32, frozen ones in `precision`. Raises UserError."""

    @abstractmethod
    def save(
        self, model: PreTrainedModel, payload: Path, base_digest: str, weights: Weights | None = None
    ) -> None:
        """Write what was learned in the layout that others load; the same weights give the same bytes.

        `weights`: the model's state in fp32 by name, where it is spread over several processes.
        """


def taught_by(settings: MethodSettings) -> TaughtBy:
    """Return the method that a plan names. Raises UserError for settings that it cannot have."""
    name = method_of(settings.name).name
    module = importlib.import_module(f"{__name__}.{name}")
    kind = getattr(module, "".join(part.capitalize() for part in name.split("_")))
    method: TaughtBy = kind(settings)
    return method


def packs(plan: Plan) -> bool:
    """Say whether a training puts several examples into a row: as planned, and never by a method that
    cannot.
    """
    return plan.training.packing and method_of(plan.method.name).packs


def laid_out(plan: Plan, examples: Examples) -> tuple[Examples, int | None]:
    """Return the examples of a training, with the beginnings that it computes once, and the tokens that a row
    may hold; None: each has a row of its own.
    """
    capacity = plan.training.max_length
    if not packs(plan):
        return examples, None
    return (examples if plan.training.share_beginnings == "off" else examples.sharing(capacity)), capacity
