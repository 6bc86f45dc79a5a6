"""What the plan says: the one place where the lane asks ft_dagster.planning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_dagster.launch.inventory import find_devices
from ft_dagster.planning.catalogue import Hardware, load_catalogue
from ft_dagster.planning.changes import Layout as Choice
from ft_dagster.planning.changes import largest_micro_batch
from ft_dagster.planning.dryrun import Step, footprint
from ft_dagster.planning.occupancy import Layout, occupancy
from ft_dagster.planning.recommend import Asked, recommend
from ft_dagster.settings import Host


@dataclass(frozen=True)
class Foretold:
    """Bytes of one training on one device: of tensors, reserved for them, and all that the driver counts."""

    allocated: int
    reserved: int
    total: int
    phase: str


@dataclass(frozen=True)
class Shape:
    """Micro-batches of `rows` packed rows of `length` positions, every second quarter of which is trained."""

    rows: int
    length: int
    checkpointing: bool

    @property
    def trained(self) -> int:
        """Positions at which every row has a label: the last half of each of its two examples."""
        half = self.length // 2
        return 2 * (half - half // 2)

    def settings(self) -> dict[str, Any]:
        """Their part of a plan's training settings."""
        return {
            "per_device_train_batch_size": self.rows, "max_length": self.length,
            "gradient_checkpointing": self.checkpointing,
        }  # fmt: skip


def hardware() -> Hardware:
    """Of this host, as a plan sees it."""
    return load_catalogue().found(find_devices(Host()))


def foretell(model: Path, method: dict[str, Any], shape: Shape, precision: str, device: str) -> Foretold:
    """By dry run, nothing sharded."""
    step = Step(
        rows=shape.rows, length=shape.length, trained_positions=shape.trained, precision=precision,
        gradient_checkpointing=shape.checkpointing, device=device,
    )  # fmt: skip
    found = footprint(model, method, step)
    held = occupancy(found, Layout())
    return Foretold(found.peak, held.reserved, held.total, found.phase)


def largest(
    model: Path, method: dict[str, Any], shape: Shape, precision: str, device: str, memory: int
) -> int | None:
    """The largest micro-batch that the plan finds for a device of `memory` bytes; None: not even one row."""

    def needed(choice: Choice) -> int:
        tried = Shape(choice.micro_batch, choice.length, choice.gradient_checkpointing)
        return foretell(model, method, tried, precision, device).total

    first = Choice(method["name"], 1, shape.checkpointing, shape.length)
    return largest_micro_batch(first, needed, memory)


def defaults(model: Path, length: int, on: Hardware) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """By method that fits: the plan's own (method, training) for 50,000 examples that fill rows of `length`."""
    found = recommend(
        Asked(examples=50_000, model=str(model), tokens_per_example=length / 2, max_length=length), on
    )
    return {
        name: (planned.resolved.method, planned.resolved.training)
        for name, planned in found.planned.items()
        if planned.candidate.fits
    }
