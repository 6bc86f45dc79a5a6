"""Runs the training step itself on tensors that hold nothing: `planning.dryrun` reads its figures from it.

One optimizer step, the states that it makes counted from before it, as in all that follow the first.
Imported only where torch is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import nn

from ft_dagster.fake_tensors import FakeMode, fake_experts, make_fake
from ft_dagster.models.attention import attention_of
from ft_dagster.objectives import loss_of
from ft_dagster.planning.dryrun.fake_kernels import (
    FUSED,
    TiledHead,
    fake_positions,
    gpu_attention,
    quantize,
    unpacked_rows,
    unseen_padding,
)
from ft_dagster.planning.dryrun.tracker import FROZEN, GRADIENTS, STATES, TRAINED, Tracker
from ft_dagster.training.batches.attention import ENDS, LENGTHS, Batch, given, packed
from ft_dagster.training.batches.bounds import without_kernels
from ft_dagster.training.contract import Base
from ft_dagster.training.loss import by_fused_head, learned_prompt, loss_at
from ft_dagster.training.methods import TaughtBy
from ft_dagster.training.methods.adapter import Adapter
from ft_dagster.training.skeleton import layers_of, quiet, skeleton

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from ft_dagster.planning.dryrun.step import Step


def shapes(config: PreTrainedConfig, base: Base, method: TaughtBy, step: Step) -> PreTrainedModel:
    """Make the model of a training on the meta device, weights in the types they train in. Raises
    UserError.
    """
    compute = torch.bfloat16 if step.precision == "bf16" else torch.float32
    adapter = isinstance(method, Adapter)

    def settled(model: PreTrainedModel) -> PreTrainedModel:
        if not isinstance(method, Adapter) or not method.quantization:
            return model
        return method.prepare(quantize(model, method.quantization, compute))

    with torch.device("meta"):
        model = skeleton(
            config,
            base,
            method,
            attention=FUSED if step.fused else attention_of(config),
            dtype=compute if adapter or step.sharded else torch.float32,
            gradient_checkpointing=step.gradient_checkpointing,
            settle=settled,
        )
        for weight in model.parameters():
            if step.sharded:  # DeepSpeed casts every weight; its fp32 masters are counted by their number
                weight.data = weight.data.to(compute)
            elif weight.requires_grad:
                weight.data = weight.data.to(torch.float32)
    return model


def record_step(model: PreTrainedModel, step: Step) -> Tracker:
    """Record a step of `model` (from `shapes`; it is of no use afterwards)."""
    tracker = Tracker()
    make_fake(model)
    with quiet(), FakeMode(), fake_positions(), fake_experts(), unseen_padding(), ExitStack() as stack:
        if step.device == "cuda":
            stack.enter_context(gpu_attention())
        if not step.packed:
            stack.enter_context(unpacked_rows())
        stack.enter_context(without_kernels(model.config))
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        tracker.track((w for w in model.parameters() if not w.requires_grad), FROZEN)
        tracker.track(model.buffers(), FROZEN)
        tracker.track(trained, TRAINED)
        _mark_layers(model, tracker)
        if step.precision == "bf16" and not step.sharded:  # as accelerate prepares it
            model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))
        optimizer = torch.optim.AdamW(trained, fused=True)
        with tracker:
            _step(model, trained, optimizer, step, tracker)
    return tracker


def _step(model: Any, trained: list[Any], optimizer: Any, step: Step, tracker: Tracker) -> None:
    tokens, batch = step.rows * step.trained_positions, _batch(step)
    with packed(model, batch, off=learned_prompt(model) is not None):
        for _ in range(min(2, step.gradient_accumulation_steps)):
            tracker.phase("forward")
            loss = _loss(model, batch, step, tokens)
            tracker.keep()
            tracker.phase("head")
            loss.backward()
            tracker.track((weight.grad for weight in trained if weight.grad is not None), GRADIENTS)
            del loss
    tracker.phase("step")
    if not step.sharded:
        nn.utils.clip_grad_norm_(trained, 1.0, foreach=step.device == "cuda")
        optimizer.step()
        states = (value for state in optimizer.state.values() for value in state.values())
        tracker.track((value for value in states if isinstance(value, torch.Tensor)), STATES, always=True)
    optimizer.zero_grad()


def _batch(step: Step) -> Batch:
    """Make what the collator gives: packed, rows of two examples."""
    ids = torch.zeros(step.rows, step.length, dtype=torch.long)
    half = step.length // 2
    lengths = [[half, step.length - half] if step.packed else [step.length]] * step.rows
    return {
        "input_ids": ids,
        "labels": torch.zeros_like(ids),
        "position_ids": torch.zeros_like(ids) if step.packed else None,
        LENGTHS: lengths,
        ENDS: torch.zeros(len(lengths[0]) * step.rows + 1, dtype=torch.int32),
    }


def _loss(model: Any, batch: Batch, step: Step, tokens: int) -> torch.Tensor:
    columns = torch.arange(step.trained_positions)
    if not by_fused_head(model, step.device, step.own_loss):
        return loss_at(model, batch, columns, tokens, loss_of(step.own_loss), device=step.device)
    with _tiled_head(model, torch.bfloat16 if step.precision == "bf16" else torch.float32):
        logits = model(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            use_cache=False,
            logits_to_keep=columns,
            **given(batch),
        ).logits
    return -logits.sum() / tokens


@contextmanager
def _tiled_head(model: Any, compute: torch.dtype) -> Iterator[None]:
    """Run the output head as TRL does on a GPU, at the positions that it is given."""
    head = model.get_output_embeddings()

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        return TiledHead.apply(hidden.flatten(0, -2), head.weight, compute)

    head.forward = forward
    try:
        yield
    finally:
        del head.forward


def _mark_layers(model: Any, tracker: Tracker) -> None:
    """Mark a phase for the backward of each layer, named from both ends: layer 0 is the first, -1 the
    last.
    """
    count = model.config.get_text_config().num_hidden_layers
    for index, layer in enumerate(layers_of(model, count) or ()):
        name = f"layer {index}" if index < count / 2 else f"layer {index - count}"

        def mark(_module: Any, _inputs: Any, out: Any, name: str = name) -> None:
            hidden = out[0] if isinstance(out, tuple) else out
            if hidden.requires_grad:
                hidden.register_hook(lambda _gradient: tracker.phase(name))

        layer.register_forward_hook(mark)


def numbers(model: nn.Module) -> tuple[int, int]:
    """Count (trained, frozen) weights, a quantized one counted whole."""
    packed = sum(
        layer.in_features * layer.out_features for layer in model.modules() if hasattr(layer, "unpacked")
    )
    trained = _count(weight for weight in model.parameters() if weight.requires_grad)
    return trained, packed + _count(weight for weight in model.parameters() if not weight.requires_grad)


def _count(weights: Iterable[torch.Tensor]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)
