"""Collects what a variant's plan is made from: the hardware that it gets, and the facts of its data and
base.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.evaluation.models.arithmetic import computes_bf16
from ft_dagster.launch.inventory import Inventory
from ft_dagster.methods.base_facts import BaseFacts
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.hardware.catalogue import Hardware, load_catalogue, of_cpu
from ft_dagster.planning.shapes import shapes_of
from ft_dagster.spec import VariantSpec
from ft_dagster.store import Artifact


class Counts(NamedTuple):
    """Counts one epoch of the training split. `general_share`: of the tokens that `share_of` names.
    `validation`: examples of that split. `longest`: example, in tokens.
    """

    examples: int
    tokens: int
    trained_tokens: int
    general_share: float
    max_length: int
    validation: int = 64
    longest: int | None = None


def hardware_of(spec: VariantSpec, inventory: Inventory, project: Path) -> Hardware:
    """Return what a training of `spec` gets of a host, or of equal nodes: its GPUs or shares of them, or its
    processes' of the CPU.
    """
    if inventory.kind == "gpu":
        devices = inventory.named(spec.resources.gpu_kind) or inventory.devices
        if spec.resources.gpus > 1:  # which MIG instances are not lent to
            devices = tuple(device for device in devices if not device.is_mig) or devices
        found = load_catalogue(project).found(replace(inventory, devices=devices))
        parts = inventory.shares if spec.resources.sharing == "shared" else 1
        memory = None if found.memory_bytes is None else found.memory_bytes // parts
        return replace(found, count=ranks_of(spec, "cuda"), memory_bytes=memory)
    cores = spec.resources.cpu_slots or len(inventory.devices)
    of_node = of_cpu(cores, spec.resources.cpu_ranks, inventory.memory_bytes)
    return replace(of_node, count=ranks_of(spec, "cpu"))


def ranks_of(spec: VariantSpec, kind: str) -> int:
    """Count the processes that train a variant, on all nodes together. `kind`: as a key has it."""
    own = spec.resources
    return own.nodes * (own.gpus if kind == "cuda" else own.cpu_ranks)


def hardware_in_key(hardware: Hardware) -> dict[str, Any]:
    """Return the part of the hardware that a plan's key holds: another host is another plan, a price is
    not.
    """
    memory = hardware.memory_bytes
    if hardware.kind == "cpu":
        kind, bf16 = "cpu", computes_bf16("cpu")
        memory = None if memory is None else memory // 10**8 * 10**8  # like hosts differ by what kernels keep
    else:
        kind, bf16 = "cuda", hardware.bf16
    return {"kind": kind, "ranks": hardware.count, "memory": memory, "bf16": bf16}


def base_facts_of(parameters: int, base_bytes: int, folder: Path, cache: Path | None = None) -> BaseFacts:
    """Count what methods need to know of a base. `parameters`, `base_bytes`: of the base as stored, in
    `folder`. `cache`: see `shapes_of`.
    """
    shapes = shapes_of(folder, cache)
    return BaseFacts(
        parameters=parameters,
        base_bytes=base_bytes,
        linear_shapes=shapes.linear,
        tensors=shapes.tensors,
        **shapes.dimensions._asdict(),
    )


def facts_of(
    counts: Counts,
    parameters: int,
    base_bytes: int,
    folder: Path,
    hardware: Hardware,
    *,
    leak: str | None,
    cache: Path | None = None,
) -> Facts:
    """Collect the facts of a plan. `parameters`, `base_bytes`: of the base as stored, in `folder`. `leak`:
    see `Facts`. `cache`: see `shapes_of`.
    """
    known = hardware_in_key(hardware)
    return Facts(
        **counts._asdict(),
        **vars(base_facts_of(parameters, base_bytes, folder, cache)),
        device_kind=known["kind"],
        ranks=known["ranks"],
        device_memory=known["memory"],
        bf16=known["bf16"],
        leak=leak,
    )


def counts_of(mixture: Artifact) -> Counts:
    """Return the counts as a training_mixture has them."""
    figures = MixtureFigures.of(mixture)
    train, share = figures.train, figures.general_share
    counted = train.examples, train.tokens, train.trained_tokens
    validation = figures.splits["validation"].examples
    return Counts(*counted, share.realized, figures.max_length, validation, figures.longest)
