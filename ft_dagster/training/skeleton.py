"""Builds the model as it trains, without its weights, to count what a training costs before it is run.

Built under what holds no memory: `torch.device("meta")`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ft_dagster.training.contract import Base
from ft_dagster.training.methods import TaughtBy

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

NUMBERS_OF_LAYERS = ("layer_idx", "layer_id", "layer_number")  # in which all layers differ


def cut_layers(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """Return a copy with only the first `layers`."""
    copied: PreTrainedConfig = type(config).from_dict(config.to_dict())
    text = copied.get_text_config()
    count = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == count:  # an entry for each layer
            setattr(text, name, value[:layers])
    text.num_hidden_layers = layers
    return copied


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers, which warns of what does not matter to a model that nobody keeps."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def layers_of(model: nn.Module, count: int) -> nn.ModuleList | None:
    """Return the decoder's layers: the largest list of so many modules."""
    from torch.nn import ModuleList

    lists = [m for m in model.modules() if isinstance(m, ModuleList) and len(m) == count]
    return max(lists, key=lambda found: sum(w.numel() for w in found.parameters()), default=None)


def kinds_of_layers(model: Any) -> list[Hashable]:
    """Return what the decoder's layers are made of, in their order: equal where layers are alike."""
    layers = layers_of(model, model.config.get_text_config().num_hidden_layers)
    return [tuple(map(_made_of, layer.named_modules())) for layer in layers or ()]


def _made_of(named: tuple[str, nn.Module]) -> Hashable:
    """Return a module's place, its type, its weights and its settings."""
    name, module = named
    weights = [(n, w.shape, w.requires_grad) for n, w in module._parameters.items() if w is not None]
    settings = [
        (setting, value)
        for setting, value in vars(module).items()
        if isinstance(value, bool | int | float | str) and setting not in NUMBERS_OF_LAYERS
    ]
    return name, type(module), tuple(weights), tuple(settings)


def skeleton(
    config: PreTrainedConfig,
    base: Base,
    method: TaughtBy,
    *,
    attention: str,
    dtype: torch.dtype,
    gradient_checkpointing: bool,
    settle: Callable[[PreTrainedModel], PreTrainedModel] = lambda model: model,
) -> PreTrainedModel:
    """Return the base of `config` with what `method` adds, ready to train. Raises UserError.

    `settle`: what is done to the base before the adapter is put on it.
    """
    from transformers import AutoModelForCausalLM

    with _unsharded():
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
        model = _wrapped(settle(model), base, method)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if hasattr(model, "peft_config"):
            model.enable_input_require_grads()  # as TRL does
    return model.train()


@contextmanager
def _unsharded() -> Iterator[None]:
    """Keep transformers from spreading these shapes over the ranks where a training is sharded."""
    from transformers.integrations import deepspeed

    kept, deepspeed._hf_deepspeed_config_weak_ref = deepspeed._hf_deepspeed_config_weak_ref, None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = kept


def _wrapped(model: Any, base: Base, method: TaughtBy) -> Any:
    """Return the model with what the method adds, and what stays beneath it."""
    from peft import PeftConfig, get_peft_model

    from ft_dagster.training.methods.adapter import ADAPTER, Adapter
    from ft_dagster.training.methods.stacking import PARENT

    if not isinstance(method, Adapter):
        return model
    model = get_peft_model(model, method.configure(model, base))
    method.settle(model)
    if base.parent:
        model.add_adapter(PARENT, PeftConfig.from_pretrained(str(base.parent.adapter)))
        model.base_model.set_adapter([ADAPTER, PARENT])
        model.set_requires_grad(PARENT, False)
    return model
