"""Two devices that compute on the CPU: a tensor says on which it lies, and to mix both is refused.

Who takes a model for a whole on one device fails here as there; sums are the CPU's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.accelerate import get_balanced_memory, infer_auto_device_map

from ft_dagster.evaluation.models import load

CPU = torch.device("cpu")
KIND = "lazy"  # the one kind of device beside the CPU that has no hardware behind it and takes an index


class Lying(torch.Tensor):
    """A tensor that says it lies on `device`; its numbers are those of `held`, on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, device: torch.device) -> Lying:
        made: Lying = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        return self.held.tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carry_out(op, args, kwargs or {})


class Devices(TorchDispatchMode):
    """Within it what is made with `device=` lies there."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return carry_out(op, args, kwargs or {})


@contextmanager
def lent_two(base: Path) -> Iterator[None]:
    """Within it `cuda` is two devices, which a lease gave; models of the shapes of `base` are loaded."""
    with (
        patch.dict(os.environ, HF_DEACTIVATE_ASYNC_LOAD="1"),  # another thread knows nothing of the devices
        patch.object(load, "placement", lambda device: {"device_map": on_two(base)}),
        two_devices(),
    ):
        yield


@contextmanager
def two_devices() -> Iterator[None]:
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) then moves as all else does
    try:
        with Devices():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def carry_out(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = tree_flatten((args, kwargs))[0]
    given = [each for each in leaves if isinstance(each, torch.Tensor)]
    wanted = next((each for each in leaves if isinstance(each, torch.device)), None)
    mine = {id(each.held): each for each in given if isinstance(each, Lying)}
    if not mine and (wanted is None or wanted.type != KIND):
        return op(*args, **kwargs)
    where = wanted or _where(op, given)
    plain_args, plain = tree_map(_plain, (args, kwargs))
    return tree_map(lambda each: _put(each, where, mine), op(*plain_args, **plain))


def _where(op: Any, given: list[torch.Tensor]) -> torch.device:
    """Where the result lies. A single number of the CPU goes along with any device, and so do its indices."""
    name = op.overloadpacket.__name__
    if name == "copy_":
        return given[0].device
    free = name.startswith("index")
    places = {each.device for each in given if each.device != CPU or (each.dim() and not free)}
    if len(places) > 1:
        raise RuntimeError(f"{name}: expected all tensors on one device, found {sorted(map(str, places))}")
    return places.pop()


def _plain(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == KIND:
        return CPU
    return value.held if isinstance(value, Lying) else value


def _put(value: Any, where: torch.device, mine: dict[int, Any]) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    same = mine.get(id(value))
    if same is not None:
        if same.device == where:
            return same
        value = value.clone()  # another device has a copy
    return Lying(value, where) if where.type == KIND else value


def on_two(folder: Path) -> dict[str, torch.device]:
    """Where a model's parts lie on two devices with room for all of it."""
    return {name: torch.device(KIND, at) for name, at in places(folder, {0: 10**9, 1: 10**9}).items()}


def places(folder: Path, memory: dict[int | str, int | str]) -> dict[str, int]:
    """The places of a model's parts as transformers gives them for `balanced`: the number of a GPU, or disk.

    `memory`: bytes of each.
    """
    model = empty(folder)
    shares = get_balanced_memory(model, memory, model._no_split_modules)
    found: dict[str, int] = infer_auto_device_map(model, shares, model._no_split_modules)
    return found


def empty(folder: Path) -> Any:
    """The model on the meta device."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
