"""Computes the bytes known without a dry run: the rule of thumb for a process' memory, and what is kept on
disk.

The rule counts weights, gradients and states: a floor, and a cross-check of the dry run, which counts
activations, buffers and the allocator's slack too. B = bytes, GB = 1e9 B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ft_dagster.methods import method_of
from ft_dagster.methods.method import BF16, FP32
from ft_dagster.planning.facts import Facts
from ft_dagster.spec.training import TrainingSettings

MOMENTS = 2 * FP32  # Adam's two
# The driver and the kernels of a process, loaded lazily since CUDA 11.7: about 0.3 GB (pytorch #107667), and
# room for those of cuBLAS, attention and bitsandbytes. Not measured here.
CUDA_CONTEXT = 500_000_000


class Load(NamedTuple):
    """Says what a training puts on its devices: `trained` parameters of a base, by a method, in a
    precision.
    """

    method: str
    trained: int
    precision: str
    facts: Facts

    @property
    def width(self) -> int:
        """Return the bytes of a weight that computes."""
        return BF16 if self.precision == "bf16" else FP32


def frozen_bytes(load: Load) -> int:
    """Return the bytes of the frozen base in memory. What is not quantized is in the type that computes above
    a 4-bit base, and above an 8-bit one in fp32, as PEFT prepares it.
    """
    return method_of(load.method).frozen_bytes(load.facts, load.width)


@dataclass(frozen=True)
class RuleOfThumbBytes:
    """Counts the bytes that one process holds on its device; `floor_bytes`: the three before it together.

    `states_bytes`: gradients, moments and master weights; `offloaded_bytes`: what is held elsewhere instead.
    """

    trainable_parameters: int
    frozen_bytes: int
    trained_weights_bytes: int
    states_bytes: int
    floor_bytes: int
    offloaded_bytes: int


@dataclass(frozen=True)
class StorageBytes:
    """Counts the bytes on disk: of one checkpoint, of all that are kept at most, and of either export.

    `adapter_bytes`, `whole_bytes`: None where a method does not offer it. `resume_points_bytes`: at most, of
    the states of the first pass that stay with the model.
    """

    checkpoint_weights_bytes: int
    checkpoint_optimizer_bytes: int
    checkpoint_bytes: int
    checkpoints_at_most: int
    checkpoints_bytes: int
    adapter_bytes: int | None
    whole_bytes: int | None
    resume_points_bytes: int = 0


def adapter_bytes(trained: int) -> int:
    """Return the bytes of an adapter's weights as they are exported, in fp32, without its tokenizer."""
    return trained * FP32


def memory(load: Load, stage: int, offload: str) -> RuleOfThumbBytes:
    """Return what one process holds: frozen weights, and weights, gradients and moments of what is trained.

    Copies (stage 0): 4 + 4 + 8 B a trained parameter. ZeRO-2 shards gradients, master weights and moments
    over the ranks and keeps the weights that compute; ZeRO-3 shards all. Offloaded is what a host or disk
    holds instead.
    """
    facts, trained, width, ranks = load.facts, load.trained, load.width, load.facts.ranks
    frozen = frozen_bytes(load)
    if stage == 0:
        weights, states, sharded = FP32 * trained, (FP32 + MOMENTS) * trained, 1
    else:
        master = 0 if width == FP32 and stage == 3 else FP32  # fp32 shards are their own masters
        weights, states, sharded = width * trained, (width + master + MOMENTS) * trained, ranks
    states //= sharded
    if stage == 3:
        frozen, weights = frozen // ranks, weights // ranks
    whole = frozen + weights + states
    if offload != "none":
        states = 0
        if stage == 3:  # the weights too: the device holds about a layer of them at a time
            frozen, weights = 0, min(frozen + weights, width * facts.largest_layer)
    floor = frozen + weights + states
    return RuleOfThumbBytes(
        trainable_parameters=trained,
        frozen_bytes=frozen,
        trained_weights_bytes=weights,
        states_bytes=states,
        floor_bytes=floor,
        offloaded_bytes=whole - floor,
    )


def storage(load: Load, stage: int, training: TrainingSettings, resume_points: int = 0) -> StorageBytes:
    """Return the bytes on disk: checkpoints while it trains, and what either export would release (None: not
    offered).

    At most keep_best + keep_last checkpoints and the newest are complete, beside the one being written; of
    each resume point two more, its state and the best before it, but none under ZeRO. An
    adapter is fp32; a whole model is saved in bf16, a merged one in the base's own types with the adapter
    inside.
    """
    trained = load.trained
    weights = trained * (FP32 + (load.width if stage == 2 else 0))
    optimizer = trained * MOMENTS
    states = 0 if stage else 2 * resume_points
    kept = training.keep_best + training.keep_last + 2 + states
    known = method_of(load.method)
    adapter = adapter_bytes(trained) if "adapter" in known.exports else None
    merged = load.facts.base_bytes + (adapter or 0) if known.freezes else trained * BF16
    return StorageBytes(
        checkpoint_weights_bytes=weights,
        checkpoint_optimizer_bytes=optimizer,
        checkpoint_bytes=weights + optimizer,
        checkpoints_at_most=kept,
        checkpoints_bytes=kept * (weights + optimizer),
        adapter_bytes=adapter,
        whole_bytes=merged if "merged" in known.exports else None,
        resume_points_bytes=states * (weights + optimizer),
    )
