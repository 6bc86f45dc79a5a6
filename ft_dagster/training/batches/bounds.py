"""Hands the bounds of packed examples to the kernels of layers with a state, where these are installed.

transformers calls such kernels (`fla`, `causal-conv1d`, `mamba-ssm`) by functions of a class's module, and
hands `seq_idx` and `cu_seq_lens_q` on to them; without a kernel it refuses both. They run on GPUs alone,
where this has not run yet. Imported only where torch is.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ft_dagster.models.attention import class_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

READ = frozenset({"seq_idx", "cu_seqlens"})  # by which a kernel is told where an example ends
ONE_TOKEN = ("update", "recurrent")  # in the names of functions that continue an answer by a token
PAST_MODULES = "mamba_split_conv1d_scan_combined"  # reads the weights of layers, past their adapters


class StateKernel(NamedTuple):
    """Is a function of a class's module that is computed by a kernel, where one is installed."""

    place: str  # its name in the module
    name: str  # of the kernel
    installed: bool
    reads_bounds: bool


def state_kernels(config: PreTrainedConfig) -> list[StateKernel]:
    """Return the functions over whole rows that the class of a configuration may compute by kernels."""
    return list(_kernels(sys.modules[class_of(config).__module__]))


def _kernels(module: Any) -> Iterator[StateKernel]:
    for place, function in vars(module).items():
        if not inspect.isfunction(function) or not hasattr(function, "__wrapped__"):
            continue
        known = inspect.getclosurevars(function).nonlocals
        if "is_new_implementation" in known and not any(part in known["func_name"] for part in ONE_TOKEN):
            reads = bool(READ & set(known["applicable_params"]))
            yield StateKernel(place, known["func_name"], bool(known["is_new_implementation"]), reads)


def reads_bounds(config: PreTrainedConfig) -> bool:
    """Say whether all functions that a class computes by kernels are, here, by such that read bounds."""
    found = state_kernels(config) if class_of(config) is not None else []
    return bool(found) and all(each.installed and each.reads_bounds for each in found)


@contextmanager
def without_kernels(config: PreTrainedConfig) -> Iterator[None]:
    """Make a class compute by torch alone within this context: kernels cannot run on shapes."""
    module = sys.modules[class_of(config).__module__]
    kept = {each.place: getattr(module, each.place) for each in state_kernels(config) if each.installed}
    for place, function in kept.items():
        setattr(module, place, function.__wrapped__)
    try:
        yield
    finally:
        for place, function in kept.items():
            setattr(module, place, function)


def in_one_row(batch: MutableMapping[str, Any], ends: torch.Tensor) -> dict[str, torch.Tensor]:
    """Lay the rows of a batch end to end, as kernels take bounds of one row, and return what tells these.
    `ends`: of `ends_of`.
    """
    if "labels" in batch:
        batch["labels"] = batch["labels"].clone()
        batch["labels"][:, 0] = -100  # which nothing of its row predicts
    for name in ("input_ids", "position_ids", "labels"):
        if batch.get(name) is not None:
            batch[name] = batch[name].reshape(1, -1)
    sizes = ends.diff()
    numbers = torch.arange(len(sizes), dtype=torch.int32, device=ends.device)
    return {"seq_idx": numbers.repeat_interleave(sizes.long())[None], "cu_seq_lens_q": ends}


def call_layers(config: PreTrainedConfig) -> None:
    """Make a class compute its layers one by one where a kernel would read their weights past adapters, which
    then would not be trained.
    """
    module = sys.modules[class_of(config).__module__]
    for each in state_kernels(config):
        if each.name == PAST_MODULES and each.installed:
            setattr(module, each.place, lambda *_, **__: None)  # as without the kernel
