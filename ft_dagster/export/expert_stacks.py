"""Merges an update of tensors that hold all experts of a layer, however the base's files hold the experts: in
one tensor too, each by itself, or gate and up apart. transformers' own conversion tells which rows lie where.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ft_dagster.model_files.tensors import Stored, read_tensor

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Stack:
    """Adds scale * left @ right to the matrix [a, b] of each expert, as PEFT has the two in `down` and `up`.
    `swapped`: the matrices lie as [out, in].
    """

    down: Stored
    up: Stored
    scale: float
    experts: int
    swapped: bool

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return left [experts, a, rank] and right [experts, rank, b], in float32."""
        down, up = read_tensor(self.down).float(), read_tensor(self.up).float()
        down = down.reshape(self.experts, -1, down.shape[-1])
        up = up.reshape(up.shape[0], -1, self.experts).permute(2, 0, 1)
        return (up, down) if self.swapped else (down.transpose(1, 2), up.transpose(1, 2))


@dataclass(frozen=True)
class StackRows:
    """Is what a `stack` adds to a stored tensor. `rows`: the number of each of its rows among those of all
    experts. `height`: rows of an expert.
    """

    stack: Stack
    rows: Tensor
    height: int

    def added(self, parts: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yield float32 parts in order, each changed in place."""
        left, right = self.stack.factors()
        first = 0
        for part in parts:
            flat = part.view(-1, part.shape[-1])
            rows = self.rows[first : first + len(flat)]
            first += len(flat)
            for expert in (rows // self.height).unique().tolist():
                here = rows // self.height == expert
                update = left[expert][rows[here] % self.height] @ right[expert]
                flat[here] += self.stack.scale * update
            yield part


def names_in_class(model: Any, names: Mapping[str, Any], stored: list[str]) -> dict[str, str]:
    """Return what a model's class calls each tensor of the files, after transformers' renamings; experts that
    lie one by one keep their own.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    renamings = [each for each in get_model_conversion_mapping(model) if isinstance(each, WeightRenaming)]
    return {
        name: rename_source_key(name, renamings, [], model.base_model_prefix, dict(names))[0]
        for name in stored
    }


def rows_in_files(model: Any, weight: str, called: Mapping[str, str]) -> dict[str, Tensor] | None:
    """Return which rows of a stack, a weight of a plain `model`, each tensor of the files holds; None where
    the files do not hold them all, or in columns. `called`: see `names_in_class`.
    """
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    experts, height, _ = model.get_parameter(weight).shape
    numbers = torch.arange(experts * height).reshape(experts, height, 1)
    stored = {name: tensor for tensor, name in called.items()}
    if weight in stored:
        return {stored[weight]: numbers.flatten()}
    found: dict[str, Tensor] = {}
    reverted = revert_weight_conversion(model, {weight: numbers})
    for plain, name in names_in_class(model, {weight: numbers}, list(reverted)).items():
        if name not in stored or reverted[plain].shape[-1] != 1:
            return None
        found[stored[name]] = reverted[plain].flatten()
    whole = torch.cat(list(found.values())).sort().values
    return found if torch.equal(whole, numbers.flatten()) else None
