"""Finds the weights of a base of experts that PEFT updates as tensors, and the gates beside the experts.

A layer of experts holds the weights of all of them in one tensor, which is no linear layer. And of some bases
PEFT takes linear layers (those of shared experts, or of layers without experts) for experts of another file
format, and leaves them out unless they are named as tensors: PEFT itself is asked of which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.methods.base_facts import NO_TENSORS, Tensors
from ft_dagster.methods.settings import MethodSettings
from ft_dagster.training.methods.adapter import ADAPTER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

TENSORS = "target_parameters"

EXPERTS = "experts"  # the name of a module that holds them
MATRIX, STACK = 2, 3  # dimensions of a weight, and of those of all experts of a layer


def stacks_of(model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Yield the module's name, the tensor's name and the tensor of each that holds all experts of a layer."""
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] == EXPERTS:
            for own, weight in module.named_parameters(recurse=False):
                if weight.ndim == STACK:
                    yield name, own, weight


def tensors_of(model: nn.Module) -> Tensors:
    """Return the weights of a base, plain or quantized, that are updated as tensors; none of a dense one."""
    from torch.nn import Linear

    stacks = list(stacks_of(model))
    if not stacks:
        return NO_TENSORS
    shapes, gates = dict[str, list[list[int]]](), set[str]()
    for _, own, weight in stacks:
        shapes.setdefault(f"{EXPERTS}.{own}", []).append(list(weight.shape))
    for block in sorted({name.rpartition(".")[0] for name, _, _ in stacks}):
        for name, child in model.get_submodule(block).named_children():
            if isinstance(child, Linear):
                gates.add(name)
                continue
            for own, weight in child.named_parameters(recurse=False):
                if weight.ndim == MATRIX and name != EXPERTS:
                    gates.add(f"{name}.{own}")
                    shapes.setdefault(f"{name}.{own}", []).append(list(weight.shape))
    taken: dict[str, bool] = {}
    for name, layer in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if isinstance(layer, Linear) and last not in gates:
            if last not in taken:
                taken[last] = _is_taken_for_experts(model, last)
            if taken[last]:
                called = ".".join([*name.split(".")[-2:], "weight"])
                shapes.setdefault(called, []).append([layer.out_features, layer.in_features])
    return Tensors(shapes, sorted(gates))


def _is_taken_for_experts(model: nn.Module, layer: str) -> bool:
    """Say whether PEFT, told to update the layers of this last name, would update tensors of experts."""
    from peft import LoraConfig

    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:  # a PEFT that knows nothing of those formats
        return False
    config = LoraConfig(target_modules=[layer])
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:  # it takes several names together
        return True
    return layer not in (config.target_modules or ())


class Moved(NamedTuple):
    """Counts the matrices of experts that an adapter is to update, by layer, tensor and expert, and those
    that it does.
    """

    whole: int
    moved: int


def moved_experts(model: nn.Module) -> Moved:
    """Count them in a PEFT model: an expert's matrix moved where neither factor of its update is zero."""
    from peft.tuners.lora.layer import LoraLayer

    whole, moved = 0, 0
    for layer in model.modules():
        experts = getattr(layer, "num_experts", 1)
        if isinstance(layer, LoraLayer) and experts > 1 and ADAPTER in layer.lora_A:
            down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            each = down.reshape(experts, -1).any(1) & up.reshape(-1, experts).any(0)
            whole, moved = whole + experts, moved + int(each.sum())
    return Moved(whole, moved)


def refuse_unmoved(model: nn.Module, method: MethodSettings) -> None:
    """Raises UserError where a plan names tensors of experts, and no expert's weights moved."""
    names = [name for name in getattr(method, TENSORS, None) or () if name.startswith(f"{EXPERTS}.")]
    moved = moved_experts(model) if names else None
    if moved is not None and not moved.moved:
        raise UserError(
            f"the plan says that experts are trained ({', '.join(names)}), and the training moved none of "
            f"their {moved.whole:,} matrices",
            field=f"method.{TENSORS}",
            value=names,
            fix="Raise training.learning_rate or the steps, or name layers alone in method.target_modules",
        )
