"""Training methods, one file each, all of the same shape; plan.json's `method.name` picks one."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from ft_dagster.errors import UserError
from ft_dagster.training.contract import Base, Strict

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    Weights = dict[str, Tensor]

Precision = Literal["bf16", "fp32"]
S = TypeVar("S", bound=Strict)


class Method(ABC):
    """How a model is taught: built from the `method` part of plan.json, its settings validated."""

    packs: bool = True  # whether several examples may share a row (position_ids reach the model)

    @abstractmethod
    def build(self, base: Base, precision: Precision, seed: int) -> PreTrainedModel:
        """The model, on CPU: trained weights in fp32, frozen ones in `precision`. Raises UserError."""

    @abstractmethod
    def save(
        self, model: PreTrainedModel, payload: Path, base_digest: str, weights: Weights | None = None
    ) -> None:
        """Write what was learned in the layout that others load; the same weights give the same bytes.

        `weights`: the model's state in fp32 by name, where it is spread over several processes.
        """


def settings_of(kind: type[S], settings: dict[str, Any]) -> S:
    """The `method` part of plan.json as that method's own settings. Raises UserError naming the field."""
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(
            str(first["msg"]),
            field=".".join(("method", *map(str, first["loc"]))),
            value=first["input"],
            fix=f"Settings of {settings.get('name')}: {', '.join(kind.model_fields)}",
        ) from None


METHODS = {
    "full": "Full",
    "lora": "Lora",
    "qlora": "Qlora",
    "lora_8bit": "Lora8bit",
    "prompt_tuning": "PromptTuning",
    "prefix_tuning": "PrefixTuning",
}


def method_of(settings: dict[str, Any]) -> Method:
    """The method that a plan names. Raises UserError on an unknown name or setting."""
    name = settings.get("name")
    if name not in METHODS:
        raise UserError(
            "no such training method", field="method.name", value=name, fix=f"Known: {', '.join(METHODS)}"
        )
    module = importlib.import_module(f"{__name__}.{name}")
    method: Method = getattr(module, METHODS[name])(settings)
    return method
