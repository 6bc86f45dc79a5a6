"""Collects the figures of a finished training: losses, consumption, speed, memory, work."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft_dagster.training.checkpoints import Checkpoint
from ft_dagster.training.journal import Journal
from ft_dagster.training.methods.experts import moved_experts
from ft_dagster.training.training_figures import TrainingFigures
from ft_dagster.training.watch.held_out import BY_EXAMPLE, VALIDATION_ON

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from ft_dagster.training.watch.observer import Observer


def peak_process_bytes() -> int:
    """Return the largest resident size of this process, bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would start from what the parent had when it forked
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def process_bytes() -> int:
    """Return the resident size of this process now, bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def computed_on(model: PreTrainedModel) -> str:
    """Say what the bits of a training depend on beside its libraries."""
    import torch

    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return f"CPU with {torch.backends.cpu.get_cpu_capability()}, threads: {torch.get_num_threads()}"


def peak_device_bytes(model: PreTrainedModel) -> tuple[int | None, int | None]:
    """Return the peak bytes (of tensors, reserved for them by the allocator); None without a GPU."""
    import torch

    if model.device.type != "cuda":
        return None, None
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


def parameter_counts(model: PreTrainedModel) -> tuple[int, int]:
    """Count a model's parameters: (all, trainable)."""
    sizes = [(_count(weight), weight.requires_grad) for weight in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)


def _count(weight: Tensor) -> int:
    """Count the parameters of a weight as a whole: unpacked from 4 bits, and of all ranks' shards."""
    unpacked = getattr(getattr(weight, "quant_state", None), "shape", None)
    return math.prod(unpacked) if unpacked else int(getattr(weight, "ds_numel", weight.numel()))


def flops_estimate(model: PreTrainedModel, journal: Journal) -> int:
    """Estimate the FLOPs from parameter counts: the counted figure's cross-check, and all there is where it
    cannot be counted.

    For every computed position 2 per weight forward, 2 for the gradient of its input, 2 more where the weight
    itself is trained; the output head at trained positions only; attention scores and a checkpointed second
    forward left out.
    """
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    outside = {id(head), id(embedding)}
    body = sum(
        (6 if weight.requires_grad else 4) * _count(weight)
        for weight in model.parameters()
        if id(weight) not in outside
    )
    each = 6 if head.requires_grad else 4
    return journal.slots * body + journal.labels * each * _count(head)


def checkpoint_storage(kept: Sequence[Checkpoint]) -> tuple[int, int]:
    """Return the bytes on disk of all kept checkpoints: (weights, optimizer states with the rest).

    Under DeepSpeed the fp32 master weights lie with the optimizer's moments.
    """
    files = [(path, size) for checkpoint in kept for path, size, _ in checkpoint.files]
    weights = sum(size for path, size in files if _holds_weights(path))
    return weights, sum(size for _, size in files) - weights


def _holds_weights(path: str) -> bool:
    return path.endswith((".safetensors", "model_states.pt"))


def training_figures(
    model: PreTrainedModel,
    journal: Journal,
    best_step: int,
    whole_seconds: float,
    *,
    observer: Observer,
    kept: Sequence[Checkpoint] = (),
    weights: Mapping[str, Tensor] | None = None,
    imported: int | None = None,
) -> TrainingFigures:
    """Return what result.json reports. `whole_seconds`: of this process, since the last resume.

    The model holds the exported weights, or `weights` does by name. `imported`: bytes of this process before
    it held a weight. What the observer saw is that of `best_step`.
    """
    everything, trainable = parameter_counts(model)
    validation = journal.evaluations.get("validation", {})
    general = journal.evaluations.get("general_holdout", {})
    last = journal.steps
    allocated, reserved = peak_device_bytes(model)
    weights_bytes, optimizer_bytes = checkpoint_storage(kept)
    experts, losses = moved_experts(model), list(journal.learned().values())
    return TrainingFigures(
        steps=last,
        epochs=journal.epochs,
        train_loss_first=losses[0],
        train_loss_last=losses[-1],
        validation_loss_first=validation.get(0),
        validation_loss_best=validation.get(best_step),
        validation_loss_last=validation.get(last),
        best_step=best_step,
        general_holdout_loss_first=general.get(0),
        general_holdout_loss_last=general.get(best_step),
        tokens=journal.tokens,
        trained_tokens=journal.trained_tokens,
        packing_fill=(journal.tokens - journal.shared) / journal.slots,
        shared_tokens=journal.shared,
        tokens_per_second=journal.tokens / journal.seconds if journal.seconds else None,
        training_seconds=journal.seconds,
        seconds=whole_seconds,
        resumed_from=tuple(journal.resumed_from),
        peak_memory_bytes=peak_process_bytes(),
        imported_bytes=imported,
        peak_device_memory_bytes=allocated,
        peak_device_reserved_bytes=reserved,
        parameters=everything,
        trainable_parameters=trainable,
        flops_estimate=flops_estimate(model, journal),
        checkpoints_kept=len(kept),
        checkpoint_weights_bytes=weights_bytes,
        checkpoint_optimizer_bytes=optimizer_bytes,
        computed_on=computed_on(model),
        expert_matrices=experts.whole or None,
        expert_matrices_moved=experts.moved if experts.whole else None,
        **_seen(observer, journal, best_step, weights),
    )


def _seen(
    observer: Observer, journal: Journal, best_step: int, weights: Mapping[str, Tensor] | None
) -> dict[str, Any]:
    """Return what was watched: the work, the spectrum, signs of forgetting before and after, why it
    stopped.
    """
    summarized = observer.write_spectrum(weights)
    first, last = (
        {name: observer.last(name, step) or {} for name in ("benchmark", "degeneration")}
        for step in (0, best_step)
    )
    return {
        "method": observer.member.plan.method.name,
        "flops": observer.flops_spent(),
        "effective_rank": summarized.get("effective_rank"),
        "spectrum_condition": summarized.get("condition"),
        "benchmark_first": first["benchmark"].get("mean"),
        "benchmark_last": last["benchmark"].get("mean"),
        "repeated_4grams_first": first["degeneration"].get("repeated"),
        "repeated_4grams_last": last["degeneration"].get("repeated"),
        "empty_answers_first": first["degeneration"].get("empty"),
        "empty_answers_last": last["degeneration"].get("empty"),
        "measured_on": observer.measuring.words(),
        "validation_loss_on": observer.last(VALIDATION_ON, best_step) or {},
        "validation_by_example": tuple(observer.last(BY_EXAMPLE, best_step) or ()),
        "measured_tokens": journal.measured_tokens,
        "measuring_flops": journal.measuring if observer.measuring.flops else None,
        "stopped": observer.stopped[0] if observer.stopped else None,
        "stop_reason": observer.stopped[1] if observer.stopped else None,
        "general_loss_limit": observer.member.plan.training.watch.general_loss_limit,
        "advice": tuple(observer.advice(summarized)),
    }
