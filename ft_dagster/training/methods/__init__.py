"""Training methods, one file each, all of the same shape; plan.json's `method.name` picks one."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ft_dagster.data.quantize import Quantization
from ft_dagster.training.contract import Base, MethodSettings, Plan

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ft_dagster.training.methods.shared import SharedBase

    Weights = dict[str, Tensor]

Precision = Literal["bf16", "fp32"]


class Method(ABC):
    """How a model is taught: built from the `method` part of plan.json."""

    packs: bool = True  # whether several examples may share a row (position_ids reach the model)
    freezes: bool = True  # whether its base stays as it is
    quantization: Quantization | None = None  # of its frozen base

    @abstractmethod
    def build(
        self, base: Base, precision: Precision, seed: int, shared: SharedBase | None = None
    ) -> PreTrainedModel:
        """The model, trained weights in fp32, frozen ones in `precision`, those of `shared` where it holds
        such a base. Raises UserError.
        """

    @abstractmethod
    def save(
        self, model: PreTrainedModel, payload: Path, base_digest: str, weights: Weights | None = None
    ) -> None:
        """Write what was learned in the layout that others load; the same weights give the same bytes.

        `weights`: the model's state in fp32 by name, where it is spread over several processes.
        """


METHODS = {
    "full": "Full",
    "lora": "Lora",
    "qlora": "Qlora",
    "lora_8bit": "Lora8bit",
    "prompt_tuning": "PromptTuning",
    "prefix_tuning": "PrefixTuning",
}


def method_of(settings: MethodSettings) -> Method:
    """The method that a plan names. Raises UserError for settings that it cannot have."""
    method: Method = _class_of(settings.name)(settings)
    return method


def can_pack(name: str) -> bool:
    """Whether a method can put several examples into a row."""
    return bool(_class_of(name).packs)


def packs(plan: Plan) -> bool:
    """Whether a training puts several examples into a row: as planned, and never by a method that cannot."""
    return plan.training.packing and can_pack(plan.method.name)


def _class_of(name: str) -> Any:
    return getattr(importlib.import_module(f"{__name__}.{name}"), METHODS[name])
