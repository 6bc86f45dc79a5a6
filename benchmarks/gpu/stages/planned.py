"""What the plan says: the one place where the lane asks ft_dagster.planning."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ft_dagster.host_settings import Host
from ft_dagster.launch.inventory import find_devices
from ft_dagster.planning.dryrun.footprint import footprint
from ft_dagster.planning.dryrun.occupancy import Sharding, occupancy
from ft_dagster.planning.dryrun.step import Step
from ft_dagster.planning.hardware.catalogue import CatalogueCard, Hardware, load_catalogue
from ft_dagster.planning.recommend import RecommendationRequest, recommend_method
from ft_dagster.training.contract import method_settings

MOST = 1024  # rows of a micro-batch


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


@dataclass(frozen=True)
class Asked:
    """Whose bytes: `precision` bf16 or fp32, `device` cpu or cuda."""

    model: Path
    method: dict[str, Any]
    precision: Literal["bf16", "fp32"]
    device: Literal["cpu", "cuda"]


def hardware() -> Hardware:
    """Of this host, as a plan sees it."""
    return load_catalogue().found(find_devices(Host()))


def card(name: str) -> CatalogueCard | None:
    """Of the catalogue, by the driver's name for it."""
    return load_catalogue().named_by_driver(name)


def foretell(asked: Asked, shape: Shape) -> Foretold:
    """By dry run, nothing sharded."""
    step = Step(
        rows=shape.rows, length=shape.length, trained_positions=shape.trained, precision=asked.precision,
        gradient_checkpointing=shape.checkpointing, device=asked.device,
    )  # fmt: skip
    found = footprint(asked.model, method_settings(asked.method), step)
    held = occupancy(found, Sharding())
    return Foretold(found.peak, held.reserved, held.total, found.phase)


def largest(asked: Asked, shape: Shape, memory: int) -> int | None:
    """The largest micro-batch, by the plan, of a device of `memory` bytes; None: not even one row."""

    def exceeds(rows: int) -> bool:
        return foretell(asked, replace(shape, rows=rows)).total > memory

    return bisect_left(range(1, MOST + 1), True, key=exceeds) or None


def defaults(model: Path, length: int, on: Hardware) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """By method that fits: the plan's own (method, training), for 50,000 examples in rows of `length`."""
    found = recommend_method(
        RecommendationRequest(
            examples=50_000, model=str(model), tokens_per_example=length / 2, max_length=length
        ),
        on,
    )
    return {
        name: (
            planned.resolved.method.model_dump(mode="json"),
            planned.resolved.training.model_dump(mode="json"),
        )
        for name, planned in found.planned.items()
        if planned.candidate.fits
    }
