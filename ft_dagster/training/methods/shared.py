"""Lends one loaded base to trainings of a process that take turns on it.

Each gets modules of its own over the same frozen weights, so that nothing of an adapter (layers, hooks,
changed forwards, settings of its configuration) has to be taken off: the modules go with the training.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OF_LAYERS = ("quant_state", "CB", "SCB")  # what bitsandbytes' layers and their state hold beside parameters


class SharedBase:
    """Holds the frozen base of this process, of one kind at a time. `imported`: bytes of the process before
    it held a weight, once known. `was_held`: whether the last to ask took one that was loaded.
    """

    def __init__(self) -> None:
        self.imported: int | None = None
        self.was_held = False
        self._kind: Hashable = None
        self._model: PreTrainedModel | None = None
        self._marks: list[tuple[Any, ...]] = []

    @property
    def holds(self) -> bool:
        return self._model is not None

    def lend(self, kind: Hashable, load: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """Lend modules of one's own over the base of this kind, which `load` loads unless it is held, whole:
        one whose weights were written to is loaded anew. Raises what `load` raises.
        """
        self.was_held = self._model is not None and self._kind == kind and _marks(self._model) == self._marks
        if self._model is None or not self.was_held:
            self.forget()
            self._model = _frozen(load())
            self._kind, self._marks = kind, _marks(self._model)
        return own_modules(self._model)

    def forget(self) -> None:
        """Give its memory back."""
        self._model, self._kind, self.was_held = None, None, False
        free_memory()


def free_memory() -> None:
    """Free the memory of what nobody holds: a model and its trainer are full of cycles, and the next needs
    their memory.
    """
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def own_modules(model: PreTrainedModel) -> PreTrainedModel:
    """Make the model's modules, buffers and configuration anew, over its very parameters."""
    held: list[Any] = list(model.parameters())
    for module in model.modules():
        for holder in (module, getattr(module, "state", None)):
            held += [getattr(holder, name, None) for name in OF_LAYERS]
    return copy.deepcopy(model, {id(each): each for each in held if each is not None})


def _frozen(model: PreTrainedModel) -> PreTrainedModel:
    """Freeze a model as an adapter's method leaves it; int8 weights go where their layer's first use would
    take them.
    """
    model.requires_grad_(False)
    for module in model.modules():
        if getattr(getattr(module, "weight", None), "CB", None) is not None:
            module.init_8bit_state()  # of a Linear8bitLt
    return model


def _marks(model: PreTrainedModel) -> list[tuple[Any, ...]]:
    """Return what changes where a weight is written to, or another put in its place."""
    return [
        (name, weight.data_ptr(), weight.dtype, weight._version, weight.requires_grad)
        for name, weight in model.named_parameters()
    ]
