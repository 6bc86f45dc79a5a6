"""The loss of a step, computed where something is trained and nowhere else. Imports torch and no room above.

`summed` is an objective's: (logits [positions, vocabulary] in fp32, labels [positions]) -> a scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ft_dagster.objectives import next_token_loss
from ft_dagster.training.attention import given

LOGITS = (2**22, 2**28)  # at a time, on a CPU: what its caches hold; on a GPU
SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap")  # in a model's configuration
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
    """The same with logits at `columns`, positions that each predict the label after them.

    Where the head is frozen they are made a few positions at a time, and never lie in memory all at once.
    """
    prompt, labels = learned_prompt(model), inputs["labels"][:, 1:][:, columns].flatten()
    head = _frozen_head(model)
    with _passed_through(head):
        found = model(
            input_ids=inputs["input_ids"],
            position_ids=inputs["position_ids"] if prompt is None else None,
            use_cache=False,
            logits_to_keep=columns + (prompt or 0),
            **given(inputs),
        ).logits.flatten(0, 1)
    if head is None:
        return summed(found.float(), labels) / tokens
    loss: torch.Tensor = _InChunks.apply(found, head, labels, summed, tokens)
    return loss


def _frozen_head(model: Any) -> nn.Linear | None:
    """The layer that makes the logits, where it is plain and frozen, and they are at most scaled after it."""
    whole = getattr(model, "module", model)
    head = whole.get_output_embeddings()
    plain = type(head) is nn.Linear and not head.weight.requires_grad and not hasattr(head.weight, "ds_id")
    config = whole.config.get_text_config()
    capped = any(getattr(config, name, None) is not None for name in SOFT_CAPS)
    return head if plain and not capped else None


@contextmanager
def _passed_through(head: nn.Linear | None) -> Iterator[None]:
    """Within it, the head gives what it is given."""
    if head is None:
        yield
        return
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del head.forward


class _InChunks(torch.autograd.Function):
    """The loss of hidden [positions, size] through a frozen head, and its gradient in the same pass."""

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        hidden: torch.Tensor,
        head: nn.Linear,
        labels: torch.Tensor,
        summed: Summed,
        tokens: torch.Tensor | int,
    ) -> torch.Tensor:
        learns, bias = ctx.needs_input_grad[0], None if head.bias is None else head.bias.to(head.weight.dtype)
        count = max(1, LOGITS[hidden.device.type == "cuda"] // head.weight.shape[0])
        losses, grads = [], []
        for part, wanted in zip(hidden.split(count), labels.split(count), strict=True):
            with torch.autocast(hidden.device.type, enabled=False), torch.set_grad_enabled(learns):
                x = part.detach().to(head.weight.dtype).requires_grad_(learns)
                loss = summed(nn.functional.linear(x, head.weight, bias).float(), wanted) / tokens
            if learns:
                grads += torch.autograd.grad(loss, x)
            losses.append(loss.detach())
        if learns:
            ctx.save_for_backward(torch.cat(grads).to(hidden.dtype))
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (of_hidden,) = ctx.saved_tensors
        return of_hidden * grads[0], None, None, None, None


def learned_prompt(model: Any) -> int | None:
    """Positions that prompt or prefix tuning puts before those of the input, in the logits; None without it.

    Such a model numbers its positions itself.
    """
    config = getattr(getattr(model, "module", model), "active_peft_config", None)
    if config is None or not config.is_prompt_learning:
        return None
    return config.num_virtual_tokens if config.peft_type == "PROMPT_TUNING" else 0
