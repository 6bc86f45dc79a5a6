"""The figures of a finished training: losses, consumption, speed, memory, work."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.training.journal import Journal

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def peak_process_bytes() -> int:
    """Largest resident size of this process, bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would start from what the parent had when it forked
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_bytes(model: PreTrainedModel) -> int | None:
    import torch

    return torch.cuda.max_memory_allocated() if model.device.type == "cuda" else None


def parameter_counts(model: PreTrainedModel) -> tuple[int, int]:
    """(all, trainable)."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)


def flops_estimate(model: PreTrainedModel, journal: Journal) -> int:
    """An estimate from parameter counts: forward and backward of every computed position.

    2 per weight forward, 2 for the gradient of its input, 2 more where the weight itself is trained; the
    output head at trained positions only; attention scores and a checkpointed second forward left out.
    """
    everything, trainable = parameter_counts(model)
    head = model.get_output_embeddings().weight
    embedding = model.get_input_embeddings().weight
    outside = head.numel() + (0 if embedding is head else embedding.numel())
    body = everything - outside - trainable
    return journal.slots * (4 * body + 6 * trainable) + journal.trained_tokens * 4 * head.numel()


def training_figures(
    model: PreTrainedModel, journal: Journal, best_step: int, whole_seconds: float
) -> dict[str, Any]:
    """What result.json reports. Losses: nats a token. Tokens/s leaves out padding, evaluation and saving.

    `training_seconds` are those of all steps; `seconds` those of this process, since the last resume.
    """
    everything, trainable = parameter_counts(model)
    validation = journal.evaluations.get("validation", {})
    general = journal.evaluations.get("general_holdout", {})
    last = journal.steps
    return {
        "steps": last,
        "epochs": journal.epochs,
        "train_loss_first": journal.losses[0],
        "train_loss_last": journal.losses[-1],
        "validation_loss_first": validation.get(0),
        "validation_loss_best": validation.get(best_step),
        "validation_loss_last": validation.get(last),
        "best_step": best_step,
        "general_holdout_loss_first": general.get(0),
        "general_holdout_loss_last": general.get(best_step),
        "tokens": journal.tokens,
        "trained_tokens": journal.trained_tokens,
        "packing_fill": journal.tokens / journal.slots,
        "tokens_per_second": journal.tokens / journal.seconds if journal.seconds else None,
        "training_seconds": journal.seconds,
        "seconds": whole_seconds,
        "resumed_from": journal.resumed_from,
        "peak_memory_bytes": peak_process_bytes(),
        "peak_device_memory_bytes": peak_device_bytes(model),
        "parameters": everything,
        "trainable_parameters": trainable,
        "flops_estimate": flops_estimate(model, journal),
    }
