"""Puts a second adapter above a parent's, which stays frozen and active; out comes one adapter with both in
it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.errors import UserError
from ft_dagster.methods.lora import LoraSettings
from ft_dagster.training.contract import ParentAdapter
from ft_dagster.training.methods.adapter import ADAPTER, CONFIG_FILE, WEIGHTS_FILE, Learned

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

PARENT = "parent"
UNSUPPORTED = {
    "use_dora": "DoRA",
    "trainable_token_indices": "trained token rows",
    "modules_to_save": "wholly trained layers",
    "rank_pattern": "ranks by layer",
    "alpha_pattern": "alphas by layer",
}


def check_parent(parent: ParentAdapter, child: LoraSettings) -> None:
    """Refuse a parent and a child that do not add up to one plain LoRA. Raises UserError."""
    if child.use_dora:
        raise _fold(parent.adapter, "a DoRA cannot be added to another adapter")
    theirs, own = _parent_config(parent.adapter).target_parameters, child.target_parameters
    if theirs and own and set(theirs) != set(own):  # PEFT has them on one model only where they are the same
        raise UserError(
            f"updates the tensors {', '.join(sorted(own))}, and the parent's adapter beneath "
            f"{', '.join(sorted(theirs))}: PEFT stacks adapters of the same tensors alone",
            field="method.target_modules",
            value=child.target_modules,
            fix="Name the parent's target_modules, or layers alone, or say base_model.parent_adapter: fold",
        )


def put_beneath(model: PreTrainedModel, parent: ParentAdapter) -> None:
    """Add the parent's adapter to a PEFT model: active, frozen, without dropout. Raises UserError."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    config = _parent_config(parent.adapter)
    try:
        add_beneath(model, PARENT, config)
        loaded = set_peft_model_state_dict(model, load_file(parent.adapter / WEIGHTS_FILE), PARENT)
    except (ValueError, RuntimeError) as error:
        raise _other_base(parent.adapter, str(error)) from None
    missing = [name for name in loaded.missing_keys if f".{PARENT}." in name]
    if loaded.unexpected_keys or missing:
        raise _other_base(parent.adapter, ", ".join([*loaded.unexpected_keys, *missing][:3]))


def add_beneath(model: PreTrainedModel, name: str, config: LoraConfig) -> None:
    """Add an adapter beneath the one that is trained: active, frozen, without dropout."""
    config.lora_dropout, config.inference_mode = 0.0, True
    model.add_adapter(name, config)
    model.base_model.set_adapter([ADAPTER, name])
    model.set_requires_grad(name, False)
    # With it in the checkpoint as well, Trainer would leave it inactive on resuming.
    model.save_pretrained = functools.partial(model.save_pretrained, selected_adapters=[ADAPTER])


def concatenated_adapters(parent: ParentAdapter, child: Learned) -> Learned:
    """Join parent and child into one adapter of rank r1 + r2 and scale 1: their own scales go into B.

    A layer that only one of them updates has zeros for the other. The child's token rows go along.
    """
    from safetensors.torch import load_file

    above = _parent_config(parent.adapter).to_dict()
    return joined([Learned(above, load_file(parent.adapter / WEIGHTS_FILE)), child])


def joined(parts: Sequence[Learned]) -> Learned:
    """Join adapters, the last of them the one that is trained, into one: see `concatenated_adapters`."""
    import torch

    config, tensors = parts[-1]
    layers = sorted({name.removesuffix(_A) for _, found in parts for name in found if name.endswith(_A)})
    joined = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    for layer in layers:
        a_shape, b_shape, experts = _sizes(layer, parts)
        downs, ups = [], []
        for settings, found in parts:
            rank = settings["r"]
            down = found.get(layer + _A, torch.zeros(rank * experts, a_shape)).float().cpu()
            up = found.get(layer + _B, torch.zeros(b_shape, rank * experts)).float().cpu()
            downs.append(down.reshape(experts, rank, a_shape))  # as PEFT lays out those of several experts
            ups.append(up.reshape(b_shape, rank, experts) * _scale(settings))
        joined[layer + _A] = torch.cat(downs, dim=1).reshape(-1, a_shape)
        joined[layer + _B] = torch.cat(ups, dim=1).reshape(b_shape, -1)
    rank = sum(settings["r"] for settings, _ in parts)
    one = {"r": rank, "lora_alpha": rank, "use_rslora": False}
    for name in ("target_modules", "target_parameters"):
        all_of = {target for settings, _ in parts for target in settings.get(name) or ()}
        one[name] = sorted(all_of) if all_of or name == "target_modules" else config.get(name)
    return Learned({**config, **one}, joined)


_A, _B = ".lora_A.weight", ".lora_B.weight"


def _scale(settings: dict[str, Any]) -> float:
    rank = settings["r"]
    return settings["lora_alpha"] / (rank**0.5 if settings["use_rslora"] else rank)


def _sizes(layer: str, parts: Sequence[Learned]) -> tuple[int, int, int]:
    """Return (in, out) of a layer, and how many experts its tensor holds, from whichever adapter updates
    it.
    """
    settings, weights = next((settings, weights) for settings, weights in parts if layer + _A in weights)
    down, up = weights[layer + _A], weights[layer + _B]
    return down.shape[1], up.shape[0], down.shape[0] // settings["r"]


def _parent_config(folder: Path) -> LoraConfig:
    """Return the parent's configuration, if it is a plain LoRA. Raises UserError."""
    from peft import LoraConfig, PeftConfig

    if not (folder / CONFIG_FILE).exists() or not (folder / WEIGHTS_FILE).exists():
        raise _fold(folder, "is not an adapter")
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise _fold(folder, f"is not a LoRA but {config.peft_type.value.lower()}")
    for setting, words in UNSUPPORTED.items():
        if getattr(config, setting):
            raise _fold(folder, f"holds {words}")
    return config


def _fold(folder: Path, why: str) -> UserError:
    return UserError(
        f"{why}: no second adapter can be stacked on it",
        file=folder,
        field="base_model.parent_adapter",
        value="stack",
        fix="Say fold: the parent is merged into a base of its own first",
    )


def _other_base(folder: Path, why: str) -> UserError:
    return UserError(
        f"the parent's adapter does not fit this base model: {why}",
        file=folder,
        field="base_model.parent_adapter",
        value="stack",
        fix="Say fold, or materialize base_model again",
    )
