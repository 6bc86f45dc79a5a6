"""Finds the linear layers that a method trains something beside, by their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from ft_dagster.errors import UserError
from ft_dagster.methods.base_facts import BaseFacts
from ft_dagster.methods.settings import MethodSettings

LinearShapes: TypeAlias = dict[str, list[list[int]]]  # by last name: [out, in] of each layer
Targets: TypeAlias = str | list[str] | tuple[str, ...]  # "all-linear", or last names
ALL = "all-linear"


class LayerSettings(MethodSettings):
    """Holds the settings shared by methods that train something of a `rank` beside the linear layers of the
    base.
    """

    capacity: ClassVar[str | None] = "rank"

    rank: Annotated[int, Field(ge=1, le=1024, description="LoRA rank r; null: by objective and examples")] = (
        16
    )
    target_modules: Annotated[
        tuple[str, ...] | Literal["all-linear"],
        Field(description="Names of layers, experts or routers; or all-linear"),
    ] = "all-linear"

    def trainable_parameters(self, base: BaseFacts, new_tokens: int = 0) -> int:
        """Count A and B of each layer, of the rank, and the rows of new tokens."""
        rows = new_tokens * base.hidden_size * (1 if base.tied_embeddings else 2)
        return adapter_parameters(self.updated(base), self.rank, ALL) + rows

    def updated(self, base: BaseFacts) -> LinearShapes:
        """Return the shapes of the weights that get an update, by name. Raises UserError for a name that
        the base has not.
        """
        return updated(base, self.target_modules)


def updated(base: BaseFacts, targets: Targets, tensors: Sequence[str] | None = None) -> LinearShapes:
    """Return the shapes [out, in] of the weights that get an update, by name, of experts each by itself.

    `tensors`: those that are updated beside layers; None: none, and nothing is left out for them. Raises
    UserError for a name that the base has not.
    """
    if tensors is None:
        return {name: base.linear_shapes[name] for name in targeted(base.linear_shapes, targets)}
    apart = {*base.tensors.gates, *base.tensors.layers(base.linear_shapes)}
    layers = [name for name in base.linear_shapes if name not in apart] if targets == ALL else targets
    found = {
        name: base.linear_shapes[name] for name in (targeted(base.linear_shapes, layers) if layers else ())
    }
    for name in tensors:
        each = [([shape[-2:]], shape[0] if len(shape) > 2 else 1) for shape in base.tensors.shapes[name]]
        found[name] = [shape for alike, count in each for shape in alike * count]
    return found


def narrowest_layer(linear_shapes: LinearShapes, targets: Targets) -> tuple[int, str]:
    """Return the smallest dimension of the targeted layers, and the layer that has it."""
    names = targeted(linear_shapes, targets)
    return min((min(shape), name) for name in names for shape in linear_shapes[name])


def adapter_parameters(linear_shapes: LinearShapes, rank: int, targets: Targets) -> int:
    """Sum r * (in + out) over the targeted layers.

    `linear_shapes` maps a module's last name (`q_proj`) to the [out, in] shape of each such layer.
    Raises UserError when a name matches no layer, or the rank is above a layer's smaller dimension.
    """
    smallest, layer = narrowest_layer(linear_shapes, targets)
    if rank > smallest:
        raise UserError(
            f"above the smallest dimension of the targeted layers, {smallest} of {layer}",
            field="method.rank",
            value=rank,
            fix=f"Use at most {smallest}, or name method.target_modules without {layer}",
        )
    names = targeted(linear_shapes, targets)
    return sum(rank * sum(shape) for name in names for shape in linear_shapes[name])


def targeted(linear_shapes: LinearShapes, targets: Targets) -> list[str]:
    names = list(linear_shapes) if targets == "all-linear" else list(targets)
    for name in names:
        if name not in linear_shapes:
            raise UserError(
                "the base model has no such layer",
                field="method.target_modules",
                value=name,
                fix=f"It has: {', '.join(sorted(linear_shapes))}",
            )
    if not names and targets != ALL:
        raise UserError(
            "names no layer",
            field="method.target_modules",
            value=targets,
            fix="Name layers, or leave it out: all linear ones then",
        )
    if not names:
        raise UserError(
            "the base model has no linear layers that LoRA can update",
            field="method.name",
            value="lora",
            fix="Use full",
        )
    return names
