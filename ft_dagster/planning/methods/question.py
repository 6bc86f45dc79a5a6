"""Defines what a decision is made from: the question asked, and each method's figures on the hardware asked
about.

Bytes are bytes; GB are 1e9 of them; memory is of one device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

from ft_dagster.errors import UserError
from ft_dagster.methods import METHODS, method_of
from ft_dagster.methods.method import BF16
from ft_dagster.objectives import objective_of
from ft_dagster.planning.cost.serving import Manner, Serving, serve_adapters, serve_copies
from ft_dagster.planning.cost.training_cost import (
    Experiments,
    Spent,
    Storage,
    evaluation_cost,
    experiments,
    measured_evaluation,
    storage_cost,
    training_cost,
    utilization_of,
)
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.methods import defaults


@dataclass(frozen=True)
class Question:
    """Says what is to be taught, with what, for whom. Raises UserError for what has no answer."""

    objective: str
    examples: int  # of the mixture
    tokens: int  # of one epoch, as fed
    parameters: int  # of the base
    hardware: Hardware
    base_bytes: int | None = None  # of the base as stored; None: 2 a parameter
    variants: int = 1  # on this base, this one among them
    new_tokens: int = 0  # added to the vocabulary
    general_share: float | None = None  # of the tokens; None: not known yet
    general_matters: bool | None = None  # whether general ability must be kept; None: nobody said
    budget_usd: float | None = None  # for one training and its evaluation
    deadline_hours: float | None = None  # by the clock, for one training and its evaluation
    serving: Manner | None = None  # how the variants will be served; None: nobody said
    method: str | None = None  # as declared; None: auto
    questions: int | None = 0  # asked in one evaluation, all together; None: nobody counted them
    beside: Mapping[str, int] = field(default_factory=dict)  # of these beside the tasks, by what they are
    tokens_per_question: float = 200.0
    trained_tokens: int | None = None  # of those of one epoch; None: not known
    measuring: float = 0.0  # FLOPs of what is measured while it trains, at most, a share of the training's
    learned_utilization: Mapping[str, float] = field(default_factory=dict)  # by method
    seconds_per_question: float | None = None  # of one model, as an evaluation here took

    def __post_init__(self) -> None:
        _above_zero("parameters", self.parameters, "Give the base model's size, such as 13e9")
        _above_zero("examples", self.examples, "The data set is empty: see data.sources")
        _above_zero("tokens", self.tokens, "The data set is empty: see the counts of training_mixture")
        _above_zero("variants", self.variants, "Count this variant too: at least 1")
        _above_zero("budget", self.budget_usd, "Give USD above 0, or leave it out")
        _above_zero("deadline", self.deadline_hours, "Give hours above 0, or leave it out")
        if self.new_tokens < 0:
            raise UserError("below zero", field="new_tokens", value=self.new_tokens, fix="Count them from 0")
        objective_of(self.objective)
        if self.method is not None and self.method not in METHODS:
            fix = f"Take one of {', '.join(METHODS)}, or auto"
            raise UserError("no such method", field="method", value=self.method, fix=fix)

    @property
    def teaches_facts(self) -> bool:
        return objective_of(self.objective).teaches == "facts"

    @property
    def stored_bytes(self) -> int:
        """Return the stored bytes of the base."""
        return BF16 * self.parameters if self.base_bytes is None else self.base_bytes


@dataclass(frozen=True)
class Candidate:
    """Holds one method's figures on the question's hardware, from a dry run.

    `memory_bytes`: of one device at the layout that needs least there. `gpus_needed`: the fewest such devices
    that hold it (see `fewest_gpus`), None where no number does. `flops_per_token`: counted, forward, backward
    and recomputation. `frozen_bytes`: the base as this method keeps it, whole; None: as it is stored.
    `padding`: positions computed for each token where a base does not let examples be packed; else 1.
    """

    method: str
    trained: int  # parameters
    memory_bytes: int
    fits: bool
    gpus_needed: int | None
    flops_per_token: float
    layout: str = ""  # in words: "ZeRO-3 over 2, gradient checkpointing"
    epochs: float | None = None  # None: the method's default
    frozen_bytes: int | None = None
    padding: float = 1.0


class ProbeCost(NamedTuple):
    """Says what the short trainings before a plan take: hours by the clock of all its devices, and USD. None
    where a peak or a price is unknown.
    """

    hours: float | None = None
    usd: float | None = None


NO_PROBE = ProbeCost()


@dataclass(frozen=True)
class Figures:
    """Says what a candidate costs. Time and money None where a peak, a price, a layout or the number of
    questions is unknown.
    """

    candidate: Candidate
    epochs: float
    training: Spent | None  # None: no number of these devices holds it
    evaluation: Spent | None  # None: nobody counted the questions
    storage: Storage
    serving: Serving
    experiments: Experiments | None
    devices: int | None = None  # that it is trained on

    @property
    def hours(self) -> float | None:
        """Return the hours of one training and its evaluation, by the clock."""
        judging = self.evaluation.hours if self.evaluation else None
        return _sum(self.training.hours if self.training else None, judging)

    @property
    def usd(self) -> float | None:
        """Return the USD of one training and its evaluation."""
        judging = self.evaluation.usd if self.evaluation else None
        return _sum(self.training.usd if self.training else None, judging)


def figures_of(question: Question, candidate: Candidate) -> Figures:
    """Compute time, money, storage and serving of a candidate.

    One that fits is trained on all devices asked about; one that does not on the fewest that would hold it.
    """
    hardware, name = question.hardware, candidate.method
    epochs = candidate.epochs or float(defaults.epochs(name, question.objective).value)
    devices = hardware.count if candidate.fits else candidate.gpus_needed
    training = None
    if devices is not None:
        training = training_cost(
            candidate.flops_per_token,
            question.tokens * candidate.padding * epochs * (1 + question.measuring),
            gpus=devices,
            peak_flops=hardware.peak_flops,
            usd_per_hour=hardware.usd_per_hour,
            utilization=utilization_of(name, question.learned_utilization),
        )
    evaluation = _judging(question)
    return Figures(
        candidate,
        epochs,
        training,
        evaluation,
        storage_cost(
            name,
            candidate.trained,
            question.stored_bytes,
            variants=question.variants,
            merged=_served(question, name) == "copies",
        ),
        serving_of(question, candidate),
        None if training is None or evaluation is None else experiments(training, evaluation),
        devices,
    )


def _judging(question: Question) -> Spent | None:
    hardware, asked = question.hardware, question.questions
    if asked is None:
        return None
    if question.seconds_per_question is not None:
        return measured_evaluation(asked, question.seconds_per_question, hardware.usd_per_hour)
    return evaluation_cost(
        asked,
        question.tokens_per_question,
        question.parameters,
        peak_flops=hardware.peak_flops,
        usd_per_hour=hardware.usd_per_hour,
    )


def serving_of(question: Question, candidate: Candidate) -> Serving:
    """Return how it is served: as wished where the method can, else as it must: full is copies, a soft prompt
    is never merged.

    Adapters are served on the base they were trained on (quantized, for qlora); copies in bf16.
    """
    memory, device = question.hardware.memory_bytes, question.hardware.unit
    if _served(question, candidate.method) == "copies":
        return serve_copies(BF16 * question.parameters, question.variants, memory, device=device)
    base = candidate.frozen_bytes or BF16 * question.parameters
    return serve_adapters(base, candidate.trained, question.variants, memory, device=device)


def fewest_gpus(
    bytes_on: Callable[[int], int], device_bytes: int, *, start: int = 1, most: int = 64
) -> int | None:
    """Return the fewest devices that hold it, by trying each number; `bytes_on(n)`: of one of n devices.

    No division that rounds up a device too many, and nothing is taken to shrink with n: where each device
    holds a copy, more of them do not help and the answer is None.
    """
    return next((n for n in range(start, most + 1) if bytes_on(n) <= device_bytes), None)


def shown_epochs(epochs: float, digits: int = 3) -> str:
    """Write epochs to so many digits, never as a power of ten: `max_steps` may come to any number."""
    return f"{Decimal(f'{epochs:.{digits}g}'):,f}"


def _served(question: Question, method: str) -> Manner:
    known = method_of(method)
    if not known.freezes:
        return "copies"
    if "merged" not in known.exports or question.serving is None:
        return "adapters"
    return question.serving


def _above_zero(name: str, value: float | None, fix: str) -> None:
    if value is not None and not value > 0:
        raise UserError("must be above 0", field=name, value=value, fix=fix)


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second
