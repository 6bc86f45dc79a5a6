"""Begins a LoRA at a part of the base (PiSSA, OLoRA) and leaves the base as it is.

PEFT takes that part out of the base's weights. Here a second adapter beneath takes it out: frozen, with the
same A and the negative of B. So the base can be shared, and what is exported is one plain LoRA of twice the
rank over the base as it was, which PEFT's own conversion comes to as well.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from ft_dagster.errors import UserError
from ft_dagster.methods.lora import OF_THE_BASE
from ft_dagster.training.methods.adapter import ADAPTER, Learned
from ft_dagster.training.methods.stacking import add_beneath, joined

if TYPE_CHECKING:
    from transformers import PreTrainedModel

START = "start"  # the adapter beneath


def check_start(start: str, *, stacked: bool, divided: bool) -> None:
    """Refuse a start above a parent's adapter, and one of a base that ZeRO-3 spreads over processes. Raises
    UserError.
    """
    if start in OF_THE_BASE and stacked:
        raise _refused(
            start,
            "does not go with a parent's adapter that stays beneath",
            "Declare base_model.parent_adapter: fold, or leave it out",
        )
    if start in OF_THE_BASE and divided:
        raise _refused(
            start,
            "needs whole layers, and ZeRO-3 spreads them",
            "Declare training.deepspeed: {stage: 2}, or leave it out",
        )


def add_start(model: PreTrainedModel) -> None:
    """Add the adapter beneath, empty."""
    config = copy.deepcopy(model.peft_config[ADAPTER])
    config.trainable_token_indices = None
    add_beneath(model, START, config)


def fill_start(model: PreTrainedModel, start: str) -> None:
    """Let PEFT find the start of each layer, and put the base's weights back. Raises UserError."""
    for name, layer in model.named_modules():
        if ADAPTER not in getattr(layer, "lora_A", ()):
            continue
        if start == "olora" and layer.fan_in_fan_out:
            raise _refused(start, f"does not know layers like {name}", "Say pissa")
        base = layer.get_base_layer()
        kept = base.weight.data
        base.weight.data = kept.clone()
        try:
            if start == "pissa":
                layer.pissa_init(ADAPTER, start)
            else:
                layer.olora_init(ADAPTER)
        finally:
            base.weight.data = kept
        for parts, sign in ((layer.lora_A, 1), (layer.lora_B, -1)):
            drawn = parts[ADAPTER].weight.data.float().contiguous()
            parts[ADAPTER].weight.data, parts[START].weight.data = drawn, sign * drawn.clone()


def without_start(model: PreTrainedModel, learned: Learned) -> Learned:
    """Join what was trained with what it began at, taken out."""
    from peft import get_peft_model_state_dict

    beneath = get_peft_model_state_dict(model, adapter_name=START, save_embedding_layers=False)
    return joined([Learned(learned.config, beneath), learned])


def _refused(start: str, why: str, fix: str) -> UserError:
    return UserError(why, field="method.init_lora_weights", value=start, fix=fix)
