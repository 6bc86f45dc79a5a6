"""Bytes known without a dry run: the rule of thumb for a process' memory, and what is kept on disk.

The rule counts weights, gradients and states: a floor, and a cross-check of the dry run, which counts
activations, buffers and the allocator's slack too. B = bytes, GB = 1e9 B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ft_dagster.planning.facts import Facts
from ft_dagster.training.contract import TrainingSettings

LORA_LIKE = ("lora", "qlora", "lora_8bit")
SOFT_PROMPTS = ("prompt_tuning", "prefix_tuning")
FP32, BF16 = 4, 2
MOMENTS = 2 * FP32  # Adam's two
# A weight in nf4, 4 bits, with a scale of 8 bits for 64 weights and one of 32 bits for 256 scales; in int8.
QUANTIZED = {"qlora": 0.5 + 1 / 64 + 4 / (64 * 256), "lora_8bit": 1.0}


class Load(NamedTuple):
    """What a training puts on its devices: `trained` parameters of a base, by a method, in a precision."""

    method: str
    trained: int
    precision: str
    facts: Facts

    @property
    def width(self) -> int:
        """Bytes of a weight that computes."""
        return BF16 if self.precision == "bf16" else FP32


def frozen_bytes(load: Load) -> int:
    """The frozen base in memory. What is not quantized is in the type that computes above a 4-bit base, and
    above an 8-bit one in fp32, as PEFT prepares it.
    """
    facts = load.facts
    if load.method == "full":
        return 0
    if load.method in QUANTIZED:
        rest = facts.parameters - facts.linear_parameters
        width = load.width if load.method == "qlora" else FP32
        return round(facts.linear_parameters * QUANTIZED[load.method] + rest * width)
    return facts.parameters * load.width


@dataclass(frozen=True)
class RuleOfThumbBytes:
    """Bytes that one process holds on its device; `floor_bytes`: the three before it together.

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
    """Bytes on disk: of one checkpoint, of all that are kept at most, and of either export.

    `adapter_bytes`, `whole_bytes`: None where a method does not offer it.
    """

    checkpoint_weights_bytes: int
    checkpoint_optimizer_bytes: int
    checkpoint_bytes: int
    checkpoints_at_most: int
    checkpoints_bytes: int
    adapter_bytes: int | None
    whole_bytes: int | None


def memory(load: Load, stage: int, offload: str) -> RuleOfThumbBytes:
    """What one process holds: frozen weights, and weights, gradients and moments of what is trained.

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


def storage(load: Load, stage: int, training: TrainingSettings) -> StorageBytes:
    """Bytes on disk: checkpoints while it trains, and what either export would release (None: not offered).

    At most keep_best + keep_last checkpoints and the newest are complete, beside the one being written. An
    adapter is fp32; a whole model is saved in bf16, a merged one in the base's own types with the adapter
    inside.
    """
    trained = load.trained
    weights = trained * (FP32 + (load.width if stage == 2 else 0))
    optimizer = trained * MOMENTS
    kept = training.keep_best + training.keep_last + 2
    adapter = None if load.method == "full" else trained * FP32
    whole = {"full": trained * BF16, "prompt_tuning": None, "prefix_tuning": None}
    return StorageBytes(
        checkpoint_weights_bytes=weights,
        checkpoint_optimizer_bytes=optimizer,
        checkpoint_bytes=weights + optimizer,
        checkpoints_at_most=kept,
        checkpoints_bytes=kept * (weights + optimizer),
        adapter_bytes=adapter,
        whole_bytes=whole.get(load.method, load.facts.base_bytes + (adapter or 0)),
    )
