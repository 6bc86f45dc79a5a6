"""The loss of a step, computed where something is trained and nowhere else. Imports torch and no room above.

`summed` is an objective's: (logits [positions, vocabulary] in fp32, labels [positions]) -> a scalar.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ft_dagster.objectives import next_token_loss
from ft_dagster.training.attention import given

Summed = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def loss_of_fused_head(model: Any, inputs: dict[str, Any], tokens: torch.Tensor) -> torch.Tensor:
    """The shared loss over `tokens` by TRL's fused head, which makes no logits: what SFTTrainer computes,
    without the metrics for which it waits for the device.
    """
    outputs = model(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"],
        labels=inputs["labels"],
        use_cache=False,
        fused_lm_head=True,
        **given(inputs),
    )
    return -outputs.log_probs.sum() / tokens


def loss_at_trained_positions(
    model: Any, inputs: dict[str, Any], tokens: torch.Tensor | int, summed: Summed = next_token_loss
) -> torch.Tensor:
    """The summed loss of the labels over `tokens`; logits only where some row has a label.

    TRL's own head does this on GPUs; elsewhere it computes every position.
    """
    columns = (inputs["labels"][:, 1:] != -100).any(dim=0).nonzero().squeeze(1)
    return loss_at(model, inputs, columns, tokens, summed)


def loss_at(
    model: Any,
    inputs: dict[str, Any],
    columns: torch.Tensor,
    tokens: torch.Tensor | int,
    summed: Summed = next_token_loss,
) -> torch.Tensor:
    """The same with logits at `columns`, positions that each predict the label after them."""
    prompt = learned_prompt(model)
    logits = model(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"] if prompt is None else None,
        use_cache=False,
        logits_to_keep=columns + (prompt or 0),
        **given(inputs),
    ).logits
    labels = inputs["labels"][:, 1:]
    return summed(logits.flatten(0, 1).float(), labels[:, columns].flatten()) / tokens


def learned_prompt(model: Any) -> int | None:
    """Positions that prompt or prefix tuning puts before those of the input, in the logits; None without it.

    Such a model numbers its positions itself.
    """
    config = getattr(getattr(model, "module", model), "active_peft_config", None)
    if config is None or not config.is_prompt_learning:
        return None
    return config.num_virtual_tokens if config.peft_type == "PROMPT_TUNING" else 0
