"""Lists the GPUs a plan can name: memory as the driver reports it, bf16 peak, price; from gpus.yaml beside
it.

A project's own `gpus.yaml` (same form) overrides fields of a card or adds one. Memory is in bytes; GB are
1e9 bytes, GiB 2^30: a card sold as 80 GB reports up to 85.9 GB.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ft_dagster.errors import UserError
from ft_dagster.launch.inventory import Inventory
from ft_dagster.planning.hardware.cpu import cpu_memory, cpu_peak
from ft_dagster.spec.load import read_yaml

FILE = "gpus.yaml"
OWN = Path(__file__).with_name(FILE)
MIB = 2**20
PROCESS = 600_000_000  # bytes of a trainer before it holds a weight: Python with its libraries (555 MB here)
Number = TypeVar("Number", int, float)
_GPUS = re.compile(r"(?:(?P<count>[+-]?[\d.]+)\s*[x×*]\s*)?(?P<name>[A-Za-z].*)")


class Price(BaseModel):
    """Says when a price was read, and where."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    date: date
    source: str


class CatalogueCard(BaseModel):
    """Describes one kind of GPU."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: str
    memory_mib: int = Field(gt=0, description="memory.total of nvidia-smi, MiB of 2^20 bytes")
    box: str = Field("", description="What the box says")
    bf16_tflops: float | None = Field(gt=0, description="Dense peak, 1e12 a second; null: no bf16")
    fp32_tflops: float | None = Field(None, gt=0, description="Needed where there is no bf16")
    usd_per_hour: float | None = Field(None, ge=0, description="One GPU, on demand")
    price: Price | None = None
    source: str = ""
    form: str = Field("", description="How it is built in, where a kind is sold in several forms: SXM, PCIe")
    aliases: tuple[str, ...] = Field((), description="Other names for it")
    driver: str = Field("", description="Regular expression of the driver's name for it")

    @field_validator("driver")
    @classmethod
    def _is_an_expression(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _has_a_peak(self) -> Self:
        if self.bf16_tflops is None and self.fp32_tflops is None:
            raise ValueError("a card without bf16 needs fp32_tflops")
        return self

    @property
    def memory_bytes(self) -> int:
        """Return the bytes of one card, as the driver reports it."""
        return self.memory_mib * MIB

    @property
    def peak_flops(self) -> float:
        """Return the operations a second in the precision that a training here computes in: bf16, else
        fp32.
        """
        return (self.bf16_tflops or self.fp32_tflops or 0) * 1e12

    def describe(self) -> str:
        """Say what it has, in a sentence with units."""
        memory = f"{self.memory_bytes / 1e9:.1f} GB ({self.memory_mib / 1024:.1f} GiB) by its driver"
        box = f", sold as {self.box}" if self.box else ""
        peak = (
            f"{self.bf16_tflops:g} TFLOP/s in bf16"
            if self.bf16_tflops
            else f"no bf16 arithmetic: trains in fp32, {self.fp32_tflops:g} TFLOP/s"
        )
        price = "price unknown"
        if self.usd_per_hour is not None:
            when = f" on {self.price.date} ({self.price.source})" if self.price else ""
            price = f"${self.usd_per_hour:.2f} an hour{when}"
        form = f" ({self.form})" if self.form else ""
        return f"{self.name}{form}: {memory}{box}; {peak}; {price}"


@dataclass(frozen=True)
class Hardware:
    """Describes what a training may use: `count` equal devices. None where a figure is not known.

    `memory_bytes`: of one device, as its driver reports it; `peak_flops`: operations a second of one device
    in the precision it trains in; `usd_per_hour`: of one device. `form`: how a card is built in (SXM, PCIe),
    where its kind is sold in several forms.
    """

    kind: Literal["gpu", "cpu"]
    count: int
    name: str
    memory_bytes: int | None = None
    peak_flops: float | None = None
    bf16: bool = True
    usd_per_hour: float | None = None
    form: str = ""

    def __post_init__(self) -> None:
        if self.count < 1:
            fix = "Name at least one, as in 2xA100-80GB, or leave GPUs out to plan for a CPU"
            raise UserError(
                f"a training needs a {self.kind.upper()}", field="gpus", value=self.count, fix=fix
            )
        if self.memory_bytes is not None and self.memory_bytes <= 0:
            raise UserError(
                "memory must be above zero", field="memory", value=self.memory_bytes, fix="Give it in bytes"
            )

    @property
    def unit(self) -> str:
        """Return what one device is called."""
        return "GPU" if self.kind == "gpu" else "host"

    def __str__(self) -> str:
        memory = "" if self.memory_bytes is None else f" of {self.memory_bytes / 1e9:.1f} GB"
        form = f" ({self.form})" if self.form else ""
        return f"{self.count} x {self.name}{form}{memory}" if self.kind == "gpu" else f"{self.name}{memory}"


@dataclass(frozen=True)
class Catalogue:
    """Holds the cards by name, in the order of the files."""

    cards: tuple[CatalogueCard, ...]

    def card(self, name: str, *, field: str = "gpus") -> CatalogueCard:
        """Return the card of a name or alias; case, spaces and a left-out size do not matter. Raises
        UserError.
        """
        wanted = _plain(name)
        named = [card for card in self.cards if _plain(card.name) == wanted]
        exact = named or [card for card in self.cards if wanted in map(_plain, card.aliases)]
        of_kind = exact or [card for card in self.cards if _plain(card.name.split("-")[0]) == wanted]
        if len(of_kind) == 1:
            return of_kind[0]
        if of_kind:
            fix = f"Say which: {' or '.join(card.name for card in of_kind)}"
            raise UserError("there is more than one such GPU", field=field, value=name, fix=fix)
        known = {_plain(card.name): card.name for card in self.cards}
        close = [known[found] for found in difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)]
        nearest = f"Did you mean {' or '.join(close)}? " if close else ""
        fix = f"{nearest}Known: {', '.join(known.values())}; add another in the project's {FILE}"
        raise UserError("no such GPU in the catalogue", field=field, value=name, fix=fix)

    def gpus(self, text: str, *, field: str = "gpus") -> Hardware:
        """Read `2xA100-80GB`, `8xH100`, `L40S` (one). Raises UserError for zero, a fraction, an unknown
        card.
        """
        match = _GPUS.fullmatch(text.strip())
        if match is None:
            raise UserError("not GPUs", field=field, value=text, fix="Write count and card: 2xA100-80GB")
        count = match["count"] or "1"
        if not re.fullmatch(r"\+?\d+", count) or int(count) == 0:
            fix = "Write a whole number of at least 1: 2xA100-80GB"
            raise UserError("not a number of GPUs", field=field, value=text, fix=fix)
        return of_card(self.card(match["name"], field=field), int(count))

    def named_by_driver(self, name: str) -> CatalogueCard | None:
        """Return the card that the driver calls `name` ("NVIDIA A100-SXM4-80GB"); None where none is
        listed.
        """
        return next((card for card in self.cards if card.driver and re.search(card.driver, name)), None)

    def found(self, inventory: Inventory) -> Hardware:
        """Return what a host has; memory by its own driver, peak and price by the catalogue where it knows
        the card.

        Of unequal GPUs the smallest memory and the lowest peak count: a training waits for the slowest.
        """
        if inventory.kind == "cpu":
            return of_cpu(len(inventory.devices), memory_bytes=inventory.memory_bytes)
        cards = [self.named_by_driver(device.name) for device in inventory.devices]
        memories = [device.memory_bytes for device in inventory.devices]
        return Hardware(
            "gpu",
            len(inventory.devices),
            " + ".join(dict.fromkeys(device.name for device in inventory.devices)),
            memory_bytes=_least(memories),
            peak_flops=_least(card.peak_flops if card else None for card in cards),
            bf16=all(card is None or card.bf16_tflops is not None for card in cards),
            usd_per_hour=_mean(card.usd_per_hour if card else None for card in cards),
        )


def of_card(card: CatalogueCard, count: int) -> Hardware:
    """Return `count` GPUs of one kind."""
    return Hardware(
        "gpu",
        count,
        card.name,
        memory_bytes=card.memory_bytes,
        peak_flops=card.peak_flops,
        bf16=card.bf16_tflops is not None,
        usd_per_hour=card.usd_per_hour,
        form=card.form,
    )


def of_cpu(cores: int, processes: int = 1, memory_bytes: int | None = None) -> Hardware:
    """Return shares of this host's CPU and memory (`memory_bytes`, else all), one for each process that
    trains.
    """
    memory = memory_bytes or cpu_memory()
    return Hardware(
        "cpu",
        processes,
        f"CPU with {cores} cores" if cores > 1 else "CPU with 1 core",
        memory_bytes=max(1, memory // processes - PROCESS),
        peak_flops=cpu_peak(cores) / processes,
    )


def load_catalogue(project: Path | None = None) -> Catalogue:
    """Load the shipped cards, with those of the project's gpus.yaml over and after them. Raises UserError."""
    cards = _cards(OWN)
    own = None if project is None else project / FILE
    given = _cards(own) if own is not None and own.exists() else {}
    for name, fields in given.items():
        known = next((card for card in cards if _plain(card) == _plain(name)), name)
        cards[known] = {**cards.get(known, {}), **fields}
    origin = own if given else OWN
    return Catalogue(tuple(_validated(name, fields, origin) for name, fields in cards.items()))


def _cards(file: Path) -> dict[str, dict[str, Any]]:
    content = read_yaml(file)
    cards = content.get("cards")
    if set(content) != {"cards"} or not isinstance(cards, dict):
        raise UserError("not a catalogue of GPUs", file=file, fix="Its one field is `cards`, a card by name")
    for name, fields in cards.items():
        if not isinstance(fields, dict):
            fix = "Give memory_mib, bf16_tflops and usd_per_hour"
            raise UserError(
                "not the fields of a card", file=file, field=f"cards.{name}", value=fields, fix=fix
            )
    return {str(name): fields for name, fields in cards.items()}


def _validated(name: str, fields: dict[str, Any], file: Path | None) -> CatalogueCard:
    try:
        return CatalogueCard.model_validate({**fields, "name": name})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(["cards", name, *(str(part) for part in first["loc"])])
        fix = f"A card has {', '.join(name for name in CatalogueCard.model_fields if name != 'name')}"
        problem = str(first["msg"]).removeprefix("Value error, ")
        value = None if first["type"] in ("missing", "value_error") else first["input"]
        raise UserError(problem, file=file, field=field, value=value, fix=fix) from None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().removeprefix("nvidia"))


def _least(values: Iterable[Number | None]) -> Number | None:
    known = list(values)
    found = [value for value in known if value is not None]
    return min(found) if len(found) == len(known) else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    found = [value for value in known if value is not None]
    return sum(found) / len(found) if len(found) == len(known) else None
