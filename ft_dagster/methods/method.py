"""Defines what every training method says of itself. Light: how it computes is in `training/methods`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ft_dagster.methods.base_facts import BaseFacts
from ft_dagster.methods.settings import MethodSettings

Quantization = Literal["nf4", "int8"]
ZeroStage = Literal[0, 2, 3]  # 0: copies
ExportFormat = Literal["adapter", "merged"]
Trains = Literal["weights", "layers", "prompt"]
FP32, BF16 = 4, 2  # bytes of a weight


class Figure(NamedTuple):
    """Holds a number that stands unless something better is known, and why."""

    value: float
    reason: str


class SettingDefault(NamedTuple):
    """Holds the value of a method's setting unless it is declared, and why."""

    value: int | float | str | bool
    reason: str


class Rate(NamedTuple):
    """Holds a learning rate, and the span in which it is usually chosen."""

    value: float
    low: float
    high: float
    reason: str


@dataclass(frozen=True)
class Rates:
    """Decides the learning rates of a method: the `usual` one of bases of 7B, and how it moves with the size
    of the base.

    `small_times`: at a hidden size of 576, so many times the usual one; `narrow_times`: the same where one
    narrow task is taught. `large`: from 33B on, where that is another one.
    """

    usual: Rate
    small_times: float = 1.0
    narrow_times: float = 1.0
    large: Rate | None = None


@dataclass(frozen=True)
class Quantized:
    """Says how a method quantizes its frozen base.

    `bytes_a_weight`: of the linear layers, scales among them; what is not quantized lies in the type that
    computes, or in fp32 (`rest_in_fp32`), as PEFT prepares it. `cpu_step_seconds`: of 4 x 128 tokens at 135M
    on two CPU cores. `plain`: the method that trains the same above a base that is not quantized.
    """

    kind: Quantization
    bytes_a_weight: float
    rest_in_fp32: bool
    cpu_step_seconds: float
    plain: str


@dataclass(frozen=True)
class PublishedCost:
    """Holds the USD that rules of thumb name, from and to, by billions of parameters; and why counted ones
    differ.
    """

    usd: Mapping[int, tuple[int, int]]
    why_not: str


@dataclass(frozen=True)
class Method:
    """Holds all that is known of a training method but how it computes, which `training/methods/<name>.py`
    holds.

    What it is: `order` is its place in lists. `trains` says whether it trains all weights, something beside
    the base's layers (as LoRA does), or learned positions before the text. `settings` are those of plan.json;
    `defaults`: of those that may be declared, in their order, what they are unless declared; None: chosen by
    objective and examples.

    What it can: `exports`, the usual format first. `packs`: several examples may share a row. `recomputes`:
    its activations may be computed again for the backward pass; if not, `no_recomputing` says why. `is_lora`:
    it is stacked on another LoRA, and vLLM serves it. `zero_stages`: those of ZeRO that a plan may choose;
    `declared_zero_stages`: those that may be declared. `smaller`: methods that keep less on a device, the
    nearest first.

    What it costs and how well it does: `usual` is its place among methods that all else leaves equal.
    `utilization`: the share of the peak that the counted operations of a step reach. `on_low_rank` is added
    to the reason of a low rank.
    """

    name: str
    order: int
    trains: Trains
    settings: type[MethodSettings]
    usual: Figure
    rates: Rates
    epochs: Figure
    utilization: Figure
    exports: tuple[ExportFormat, ...]
    defaults: Mapping[str, SettingDefault | None] = field(default_factory=dict)
    packs: bool = True
    no_recomputing: str = ""
    is_lora: bool = False
    zero_stages: tuple[ZeroStage, ...] = (0,)
    declared_zero_stages: tuple[ZeroStage, ...] = (0,)
    quantized: Quantized | None = None
    smaller: tuple[str, ...] = ()
    published: PublishedCost | None = None
    on_low_rank: str = ""

    def __post_init__(self) -> None:
        self.settings.methods.add(self.name)

    @property
    def declared(self) -> tuple[str, ...]:
        """Return the fields of a declaration's `method` that act."""
        return tuple(self.defaults)

    @property
    def freezes(self) -> bool:
        """Say whether the method's base stays as it is."""
        return self.trains != "weights"

    @property
    def quantization(self) -> Quantization | None:
        """Return how the method quantizes its frozen base."""
        return self.quantized.kind if self.quantized else None

    @property
    def recomputes(self) -> bool:
        """Say whether gradient checkpointing works with the method."""
        return not self.no_recomputing

    def frozen_bytes(self, base: BaseFacts, width: int) -> int:
        """Return the bytes of the frozen base in memory; `width`: bytes of a weight that computes."""
        if not self.freezes:
            return 0
        if self.quantized is None:
            return base.parameters * width
        rest = (base.parameters - base.linear_parameters) * (FP32 if self.quantized.rest_in_fp32 else width)
        return round(base.linear_parameters * self.quantized.bytes_a_weight + rest)
