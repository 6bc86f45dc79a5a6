"""Computes the loss of a step where something is trained and nowhere else. Imports torch and no room above.

`summed` is an objective's: (logits [positions, vocabulary] in fp32, labels [positions]) -> a scalar.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from ft_dagster.objectives import next_token_loss
from ft_dagster.training.batches.attention import TIMES, Batch, given

LOGITS = {"cpu": 2**24, "cuda": 2**28}  # of one product with the head's weights, in the type of the product
IN_FP32 = {"cpu": 2**20, "cuda": 2**25}  # of those at a time, for their loss
SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap")  # in a model's configuration
FUSED_HEAD_SINCE = (1, 15)  # of TRL
Summed = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def step_loss(
    model: Any,
    inputs: Batch,
    tokens: torch.Tensor,
    *,
    device: str,
    own_loss: str | None = None,
    summed: Summed = next_token_loss,
) -> torch.Tensor:
    """Compute the loss of a training step over `tokens`, by the way that suits this kind of `device`;
    `summed`: of the objective whose own loss it is.
    """
    if by_fused_head(model, device, own_loss):
        return loss_of_fused_head(model, inputs, tokens)
    return loss_at_trained_positions(model, inputs, tokens, summed)


def by_fused_head(model: Any, device: str, own_loss: str | None = None) -> bool:
    """Say whether a step on this kind of device takes TRL's fused head: for the shared loss, on GPUs, where
    TRL has it and it can read the output head.
    """
    shared = own_loss is None and learned_prompt(model) is None
    return device == "cuda" and shared and has_fused_head() and readable_head(model)


def has_fused_head() -> bool:
    """Say whether the installed TRL has a fused head."""
    major, minor = map(int, re.findall(r"\d+", version("trl"))[:2])
    return (major, minor) >= FUSED_HEAD_SINCE


def readable_head(model: Any) -> bool:
    """Say whether TRL can read the weight and the bias of the output head: not where PEFT wraps it for rows
    of new tokens, since that wrapper hands on the weight alone.
    """
    return hasattr(getattr(model, "module", model).get_output_embeddings(), "bias")


def loss_of_fused_head(model: Any, inputs: Batch, tokens: torch.Tensor) -> torch.Tensor:
    """Compute the shared loss over `tokens` by TRL's fused head, which makes no logits: what SFTTrainer
    computes, without the metrics for which it waits for the device.
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
    model: Any, inputs: Batch, tokens: torch.Tensor | int, summed: Summed = next_token_loss
) -> torch.Tensor:
    """Compute the summed loss of the labels over `tokens`; logits only where some row has a label.

    TRL's own head does this on GPUs; elsewhere it computes every position.
    """
    return loss_at(model, inputs, _trained_columns(inputs), tokens, summed)


def losses_by_example(
    model: Any, inputs: Batch, lengths: Sequence[Sequence[int]], summed: Summed = next_token_loss
) -> list[float]:
    """Return the summed loss of each example, nats, of rows that hold examples of these `lengths` in turn."""
    rows = len(lengths)  # which may lie end to end
    count, owners = 0, torch.full((rows, inputs["labels"].numel() // rows), -1)
    for row, sizes in enumerate(lengths):
        numbers = torch.arange(count, count + len(sizes))
        owners[row, : sum(sizes)] = numbers.repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
        count += len(sizes)
    columns = _trained_columns(inputs)
    owners = owners.reshape(inputs["labels"].shape)
    of_positions = owners.to(columns.device)[:, 1:][:, columns].flatten()
    found, seen = [0.0] * count, 0

    def kept(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        owner, seen = of_positions[seen : seen + len(labels)], seen + len(labels)
        for each in owner[labels != -100].unique().tolist():
            mine = owner == each
            found[each] += float(summed(logits[mine], labels[mine]))
        return logits.new_zeros(())

    loss_at(model, inputs, columns, 1, kept)
    return found


def _trained_columns(inputs: Batch) -> torch.Tensor:
    """Return the positions that predict a label of some row."""
    return (inputs["labels"][:, 1:] != -100).any(dim=0).nonzero().squeeze(1)


def loss_at(
    model: Any,
    inputs: Batch,
    columns: torch.Tensor,
    tokens: torch.Tensor | int,
    summed: Summed = next_token_loss,
    *,
    device: str | None = None,
) -> torch.Tensor:
    """Compute the summed loss over `tokens` with logits at `columns`, positions that each predict the label
    after them.

    Where the head is frozen they are made so many positions at a time as on this kind of `device` (None:
    where the labels lie), and lie in memory as fp32 a few at a time.
    """
    prompt, labels = learned_prompt(model), _wanted(inputs, columns)
    head = _frozen_head(model)
    with _passed_through(head) as compute:
        found = model(
            input_ids=inputs["input_ids"],
            position_ids=inputs["position_ids"] if prompt is None else None,
            use_cache=False,
            logits_to_keep=columns + (prompt or 0),
            **given(inputs),
        ).logits.flatten(0, 1)
    if head is None:
        return _in_all(summed, found.float(), labels) / tokens
    size, kind = head.weight.shape[0], device or labels.device.type
    counts = [max(1, of.get(kind, of["cpu"]) // size) for of in (LOGITS, IN_FP32)]
    weight, bias = head.weight.to(compute[0]), None if head.bias is None else head.bias.to(compute[0])

    def of_logits(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return _in_all(summed, logits, wanted) / tokens

    loss: torch.Tensor = _InChunks.apply(found, labels, weight, bias, of_logits, counts)
    return loss


def _wanted(inputs: Batch, columns: torch.Tensor) -> torch.Tensor:
    """Return the labels that `columns` predict, [positions]; beside each how many examples have it, where
    some have one in common: [positions, 2].
    """
    labels, times = (
        values[:, 1:][:, columns].flatten() if values is not None else None
        for values in (inputs["labels"], inputs.get(TIMES))
    )
    return labels if times is None else torch.stack([labels, times], 1)


def _in_all(summed: Summed, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the summed loss, each label's as often as examples have it. `wanted`: of `_wanted`."""
    if wanted.ndim == 1:
        return summed(logits, wanted)
    labels, times = wanted.unbind(1)
    of_times = [(count, times == count) for count in times[labels != -100].unique().tolist()]
    losses = [count * summed(logits[mine], labels[mine]) for count, mine in of_times]
    return torch.stack(losses).sum() if losses else summed(logits, labels)


def _frozen_head(model: Any) -> nn.Linear | None:
    """Return the layer that makes the logits, where it is plain and frozen, and they are at most scaled after
    it.
    """
    whole = getattr(model, "module", model)
    head = whole.get_output_embeddings()
    plain = type(head) is nn.Linear and not head.weight.requires_grad and not hasattr(head.weight, "ds_id")
    config = whole.config.get_text_config()
    capped = any(getattr(config, name, None) is not None for name in SOFT_CAPS)
    return head if plain and not capped else None


@contextmanager
def _passed_through(head: nn.Linear | None) -> Iterator[list[torch.dtype]]:
    """Make the head give what it is given within this context, and note the type in which it would multiply
    that.
    """
    noted: list[torch.dtype] = []
    if head is None:
        yield noted
        return
    before = vars(head).get("forward")  # accelerate's, of a quantized model

    def given_back(hidden: torch.Tensor) -> torch.Tensor:
        kind = hidden.device.type
        typed = torch.is_autocast_enabled(kind)
        noted.append(torch.get_autocast_dtype(kind) if typed else head.weight.dtype)
        return hidden

    head.forward = given_back
    try:
        yield noted
    finally:
        del head.forward
        if before is not None:
            head.forward = before


class _InChunks(torch.autograd.Function):
    """Sums a loss over parts of hidden [positions, size], and computes its gradient in the same pass.

    `counts`: positions of one product with the frozen weight, and of those whose logits are in fp32 at once.
    The gradient of the logits takes their own place.
    """

    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any,
        hidden: torch.Tensor,
        labels: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        of_logits: Summed,
        counts: Sequence[int],
    ) -> torch.Tensor:
        learns, losses, grads = ctx.needs_input_grad[0], [], []
        with torch.autocast(hidden.device.type, enabled=False):
            for each, wanted in zip(hidden.split(counts[0]), labels.split(counts[0]), strict=True):
                logits = nn.functional.linear(each.to(weight.dtype), weight, bias)
                for part, labelled in zip(logits.split(counts[1]), wanted.split(counts[1]), strict=True):
                    losses.append(_of_part(part, labelled, of_logits, learns))
                if learns:
                    grads.append((logits @ weight).to(hidden.dtype))
        if learns:
            ctx.save_for_backward(torch.cat(grads))
        return torch.stack(losses).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (of_hidden,) = ctx.saved_tensors
        return of_hidden * grads[0], None, None, None, None, None


def _of_part(logits: torch.Tensor, labels: torch.Tensor, of_logits: Summed, learns: bool) -> torch.Tensor:
    """Return the loss of a part; where something learns, its gradient is put in the logits' place."""
    with torch.set_grad_enabled(learns):
        x = logits.detach().float().requires_grad_(learns)
        loss = of_logits(x, labels)
    if learns:
        logits.copy_(torch.autograd.grad(loss, x)[0])
    return loss.detach()


def learned_prompt(model: Any) -> int | None:
    """Count the positions that prompt or prefix tuning puts before those of the input, in the logits; None
    without it.

    Such a model numbers its positions itself.
    """
    config = getattr(getattr(model, "module", model), "active_peft_config", None)
    if config is None or not config.is_prompt_learning:
        return None
    return config.num_virtual_tokens if config.peft_type == "PROMPT_TUNING" else 0
