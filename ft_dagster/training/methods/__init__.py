"""Training methods, one file each, all of the same shape; plan.json's `method.name` picks one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ft_dagster.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Precision = Literal["bf16", "fp32"]


class Method(ABC):
    """How a model is taught: built from the `method` part of plan.json, its settings validated."""

    packs: bool = True  # whether several examples may share a row (position_ids reach the model)

    @abstractmethod
    def build(self, base: Path, precision: Precision, seed: int) -> PreTrainedModel:
        """The model, on CPU: trained weights in fp32, frozen ones in `precision`. Raises UserError."""

    @abstractmethod
    def save(self, model: PreTrainedModel, payload: Path, base_digest: str) -> None:
        """Write what was learned in the layout that others load; the same weights give the same bytes."""


def method_of(settings: dict[str, Any]) -> Method:
    """The method that a plan names. Raises UserError on an unknown name or setting."""
    from ft_dagster.training.methods.lora import Lora

    known: dict[str, Callable[[dict[str, Any]], Method]] = {"lora": Lora}
    name = settings.get("name")
    if name not in known:
        raise UserError(
            "no such training method", field="method.name", value=name, fix=f"Known: {', '.join(known)}"
        )
    return known[name](settings)
