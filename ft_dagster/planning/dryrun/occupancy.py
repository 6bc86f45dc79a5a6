"""Spreads a footprint over ranks: what each device holds of a training, and what comes on top of its tensors.

Arithmetic over `footprint.Footprint`, cheap to call for many layouts. B = bytes, GB = 1e9 B. Copies (stage 0)
hold the footprint itself. Under DeepSpeed states are counted: 4 B of fp32 master and 8 B of Adam's moments a
trained weight, spread over the ranks like the gradients; stage 3 spreads the weights too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from ft_dagster.errors import UserError
from ft_dagster.planning.dryrun.footprint import Footprint, Moment
from ft_dagster.planning.memory_formula import CUDA_CONTEXT

FP32, BF16 = 4, 2
MOMENTS = 2 * FP32  # Adam's two
WORKSPACE = 2 * FP32  # of DeepSpeed's step, a trained weight: its gradient in fp32, Adam's denominator

# On a CPU what kernels load and the C library's allocator keeps: 54 to 250 MB beyond the tensors of adapters,
# with checkpointing and without, on SmolLM2-135M at twelve layouts (benchmarks/memory.py).
CPU_CONTEXT = 150_000_000
# Channels of NCCL between GPUs: 4 MiB a channel and peer by default, some dozens of them. Not measured here.
NCCL_BUFFERS = 300_000_000
# torch's caching allocator rounds blocks up (large ones to 2 MiB) and leaves gaps between unlike ones.
# Frozen weights are laid down once and leave none. Not measured here: a finished run's figure replaces it.
ALLOCATOR_SLACK = 0.03

# DeepSpeed 0.19, deepspeed/runtime/zero/config.py: weights (not bytes) gathered at once, and stepped at once.
LIVE_WEIGHTS, SUB_GROUP = 1_000_000_000, 1_000_000_000


@dataclass(frozen=True)
class Sharding:
    """Says how a training is sharded. `bucket`: weights in one communication: contract.Deepspeed's
    bucket_bytes, as DeepSpeed counts it.
    """

    ranks: int = 1
    stage: Literal[0, 2, 3] = 0
    offload: Literal["none", "cpu", "nvme"] = "none"
    bucket: int = 500_000_000


@dataclass(frozen=True)
class Occupancy(Moment):
    """Counts the bytes on each device at the highest moment of a step, and what its rank keeps off it.

    states: optimizer states with masters. communication: buckets, gathered weights and NCCL. slack: of the
    allocator.
    """

    communication: int
    slack: int
    context: int
    offloaded: int
    phase: str

    @property
    def total(self) -> int:
        """Return what the driver counts."""
        return self.reserved + self.context

    @property
    def reserved(self) -> int:
        """Return what torch.cuda.max_memory_reserved gives, but for NCCL's buffers."""
        parts = (self.frozen, self.trained, self.gradients, self.states, self.activations, self.temporaries)
        return sum(parts) + self.communication + self.slack


def occupancy(given: Footprint, layout: Sharding) -> Occupancy:
    """Return what each device of `layout` holds of `given`. Raises UserError for a layout that cannot be.

    For stages 2 and 3 the footprint must be of a step with `sharded=True`, for stage 0 of one without.
    """
    _check(given, layout)
    gpu = given.step.device == "cuda"
    held = [
        _sharded(given, layout, name, moment) if layout.stage else _copied(given, layout, name, moment)
        for name, moment in given.moments.items()
    ]
    highest = max(held, key=lambda found: found.total)
    if not gpu:
        return replace(highest, context=CPU_CONTEXT)
    slack = round(ALLOCATOR_SLACK * (highest.total - highest.frozen))
    nccl = NCCL_BUFFERS if layout.ranks > 1 else 0
    return replace(highest, slack=slack, context=CUDA_CONTEXT, communication=highest.communication + nccl)


def _copied(given: Footprint, layout: Sharding, name: str, moment: Moment) -> Occupancy:
    """Return the bytes where each rank holds all; DistributedDataParallel copies gradients into buckets of
    its own.
    """
    buckets = FP32 * given.trained_weights if layout.ranks > 1 else 0
    return _held(name, moment, communication=buckets)


def _sharded(given: Footprint, layout: Sharding, name: str, moment: Moment) -> Occupancy:
    width = BF16 if given.step.precision == "bf16" else FP32
    trained, ranks = given.trained_weights, layout.ranks
    shard = -(-trained // ranks)
    master = 0 if width == FP32 and layout.stage == 3 else FP32  # fp32 shards are their own masters
    states, gradients = shard * (master + MOMENTS), -(-moment.gradients // ranks)
    weights = Moment(moment.frozen, moment.trained, gradients, states, moment.activations, moment.temporaries)
    overlapped = 2 if given.step.device == "cuda" else 1  # one bucket fills while another is sent
    communication = overlapped * width * min(layout.bucket, trained)
    offloaded = 0
    if name == "step":
        stepped = shard if layout.stage == 2 else min(shard, SUB_GROUP)
        weights = replace(weights, temporaries=moment.temporaries + stepped * WORKSPACE)
    if layout.stage == 3:
        whole = moment.frozen + moment.trained
        frozen, own = -(-moment.frozen // ranks), -(-moment.trained // ranks)
        weights = replace(weights, frozen=frozen, trained=own)
        communication += min(whole, LIVE_WEIGHTS * width) if ranks > 1 or layout.offload != "none" else 0
    if layout.offload != "none":  # Adam runs on the host, over gradients in fp32
        offloaded = states + shard * FP32
        weights = replace(weights, states=0, gradients=0, temporaries=moment.temporaries)
        if layout.stage == 3:
            offloaded += weights.frozen + weights.trained
            weights = replace(weights, frozen=0, trained=0)
    return _held(name, weights, communication=communication, offloaded=offloaded)


def _held(name: str, moment: Moment, *, communication: int, offloaded: int = 0) -> Occupancy:
    kinds = {field.name: getattr(moment, field.name) for field in fields(Moment)}
    return Occupancy(
        **kinds, communication=communication, slack=0, context=0, offloaded=offloaded, phase=name
    )


def _check(given: Footprint, layout: Sharding) -> None:
    if layout.ranks < 1:
        raise UserError("needs at least one", field="ranks", value=layout.ranks, fix="Give 1 or more")
    if layout.offload != "none" and not layout.stage:
        raise UserError(
            "offload is a part of ZeRO, and stage 0 is without it",
            field="offload",
            value=layout.offload,
            fix="Take stage 2 or 3",
        )
    if given.step.sharded != bool(layout.stage):
        raise ValueError(f"a footprint with sharded={given.step.sharded} for stage {layout.stage}")
