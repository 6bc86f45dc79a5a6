"""Finds which weights of a base an adapter updates: by PEFT's own resolution, on shapes alone.

A layer of experts holds the weights of all of them in one tensor, which is no linear layer. PEFT updates such
tensors of some classes, of others none, and passes over layers beside them: no list of names tells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.methods.layers import LayerSettings
from ft_dagster.methods.settings import MethodSettings
from ft_dagster.models.attention import attention_of
from ft_dagster.planning.dryrun.architecture import architecture_file, configuration
from ft_dagster.planning.dryrun.footprint import FULL, kinds_of, unquantized
from ft_dagster.training.contract import Base
from ft_dagster.training.methods import taught_by

LITTLE = 0.05  # of the weights: convolutions and other small parts of a layer
EXPERTS, BIAS = ".experts.", "bias"  # in the name of a tensor, and at its end
NAMED = 3
ANY = {"rank": 1, "dropout": 0.0}  # settings that every class takes


@dataclass(frozen=True)
class Reach:
    """Says which of a base's matrices an adapter updates, embeddings and head apart; names have a star for
    the number of a layer. `whole`: weights; `beyond`: those that get no update, by name; `layers`: last names
    of layers that get one; `as_tensors`: names of tensors that get one, though they are not the weight of a
    linear layer.
    """

    whole: int
    beyond: dict[str, int]
    layers: tuple[str, ...]
    as_tensors: tuple[str, ...]

    def sentence(self, method: LayerSettings) -> str | None:
        """Say what is not trained: experts, and what `all-linear` does not come to, unless that is little."""
        experts = {name: count for name, count in self.beyond.items() if EXPERTS in name}
        share = sum(self.beyond.values()) / max(1, self.whole)
        if not experts and (method.target_modules != "all-linear" or share < LITTLE):
            return None
        shown = experts or self.beyond
        names = sorted(shown, key=lambda name: -shown[name])
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        what = f"{'the experts, ' if experts else ''}{', '.join(names[:NAMED])}{more}"
        return f"{method.name} trains no weight of {what}: {share:.0%} of the base's weights stay as they are"


def reach_of(architecture: Path, method: MethodSettings) -> Reach | None:
    """Return the reach of a method; None of one that trains nothing beside layers, and of a base that cannot
    be built on shapes.

    Raises UserError for layers that the base has not.
    """
    if not isinstance(method, LayerSettings):
        return None
    file = architecture_file(architecture)
    same = {name: value for name, value in ANY.items() if name in type(method).model_fields}
    return _reach(str(file), file.read_bytes(), unquantized(method).model_copy(update=same))


def untrained_by(method: MethodSettings, architecture: Path) -> str | None:
    """Say what of a base a method trains no weight of; None where nothing is to be said. Raises UserError
    where an adapter could afterwards neither be merged into its base nor be served.
    """
    reach = reach_of(architecture, method)
    if reach is None or not isinstance(method, LayerSettings):
        return None
    return reach.sentence(method)


@lru_cache(maxsize=32)
def _reach(file: str, content: bytes, method: LayerSettings) -> Reach | None:
    import torch

    from ft_dagster.training.skeleton import cut_layers, quiet, skeleton

    config, base = configuration(file), Base(folder=Path(file).parent, digest="0" * 64)
    try:
        layers, period = kinds_of(file, content, base.model_dump_json(), FULL)
        config = cut_layers(config, layers % period + period) if layers > 2 * period else config
        with quiet(), torch.device("meta"):
            model = skeleton(
                config,
                base,
                taught_by(method),
                attention=attention_of(config),
                dtype=torch.float32,
                gradient_checkpointing=False,
            )
    except UserError:
        raise
    except Exception:  # what a class raises that cannot be built so: the dry run says it
        return None
    return _counted(model)


def _counted(model: Any) -> Reach:
    updated, layers, as_tensors = set[int](), set[str](), list[str]()
    for name, tensor, own in _updated(model.get_base_model()):
        updated.add(id(tensor))
        if own:
            layers.add(_place(name).rsplit(".", 1)[-1])
        else:
            as_tensors.append(_place(name))
    apart = (model.get_input_embeddings(), model.get_output_embeddings())
    updated_or_apart = updated | {id(w) for layer in apart if layer is not None for w in layer.parameters()}
    whole, beyond = 0, dict[str, int]()
    for name, weight in model.get_base_model().named_parameters():
        if "lora_" in name or weight.ndim < 2 or name.endswith(BIAS):  # of experts: [experts, out]
            continue
        if id(weight) in updated_or_apart:
            whole += weight.numel() if id(weight) in updated else 0
            continue
        whole += weight.numel()
        place = _place(name)
        beyond[place] = beyond.get(place, 0) + weight.numel()
    experts_first = sorted(set(as_tensors), key=lambda name: (EXPERTS not in name, name))
    return Reach(whole, beyond, tuple(sorted(layers)), tuple(experts_first))


def _updated(model: Any) -> Iterator[tuple[str, Any, bool]]:
    """Yield name, tensor, and whether it is the weight of a layer, of each that has an update."""
    from peft.tuners.lora.layer import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            tensor = getattr(module, "parameter_name", None)
            layer = module.get_base_layer()
            yield f"{name}.{tensor or 'weight'}", getattr(layer, tensor or "weight"), tensor is None


def _place(name: str) -> str:
    """Return a name as the base calls it, a star for a number."""
    plain = name.replace(".base_layer", "").removesuffix(".weight")
    return re.sub(r"\.\d+(?=\.|$)", ".*", plain)
