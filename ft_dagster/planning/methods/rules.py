"""Votes on methods: each rule on every method, with its figures; an earlier rule outvotes.

A vote's tier is lower where the rule likes the method more; methods of one tier are equal to that rule. What
does not fit is below all that does, whatever else speaks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ft_dagster.methods import method_of
from ft_dagster.objectives import objective_of
from ft_dagster.planning.methods.question import Figures, Question, shown_epochs
from ft_dagster.program import of_hours

Verdict = Literal["for", "against", "neither"]
MATCHES_FULL, FULL_WINS = 1_000_000, 10_000_000  # examples
LARGE = 10_000_000_000  # parameters from which soft prompts come close to full
SMALL = 200_000_000  # parameters up to which full forgot less than lora (benchmarks/decisions.py, at 135M)


@dataclass(frozen=True)
class Vote:
    """Holds what one rule says of one method."""

    rule: str
    tier: int
    verdict: Verdict
    sentence: str


def fits(question: Question, figures: Figures) -> Vote:
    candidate, hardware = figures.candidate, question.hardware
    each = "on each device" if hardware.count > 1 else "on the one device"
    needs = f"{candidate.method} needs {candidate.memory_bytes / 1e9:,.1f} GB {each}"
    if candidate.layout:
        needs += f" ({candidate.layout})"
    has = "" if hardware.memory_bytes is None else f" of {hardware.memory_bytes / 1e9:,.1f} GB"
    if candidate.fits:
        return Vote("fits", 0, "for", f"{needs}{has}: fits")
    if candidate.gpus_needed is None:
        what = "no number of them holds it as this project trains it"
    else:
        what = f"{candidate.gpus_needed} of them would hold it"
    return Vote("fits", 1, "against", f"{needs}{has}: does not fit; {what}")


def objective(question: Question, figures: Figures) -> Vote:
    name = figures.candidate.method
    trains = method_of(name).trains
    soft = trains == "prompt"
    if question.teaches_facts:
        if trains == "weights":
            return Vote("objective", 0, "for", f"{question.objective}: facts are said to need all weights")
        said = f"{question.objective}: {name} is said to learn the style of a text and not its facts"
        return Vote("objective", 2 if soft else 1, "against", said)
    if soft:
        size = f"{question.parameters / 1e9:,.1f}B"
        near = question.parameters >= LARGE
        worse = f"at {size} parameters {name} comes close to lora and stays behind it"
        below = f"{name} is worse than lora below 10B parameters, and the base has {size}"
        return Vote("objective", 1, "against", f"{question.objective}: {worse if near else below}")
    said = f"{question.objective}: behaviour and format are what {name} can teach"
    return Vote("objective", 0, "for" if trains == "layers" else "neither", said)


def dataset_size(question: Question, figures: Figures) -> Vote | None:
    if question.teaches_facts:
        return None  # facts are said to need all weights at any size
    name, count = figures.candidate.method, f"{question.examples:,} examples"
    trains = method_of(name).trains
    if question.examples > FULL_WINS:
        if trains == "weights":
            return Vote("dataset_size", 0, "for", f"{count}, more than 10M: full learns more from them")
        return Vote("dataset_size", 1, "against", f"{count}, more than 10M: {name} falls behind full")
    if question.examples >= MATCHES_FULL:
        said = f"{count}, 1M to 10M: undetermined between full and lora; a bake-off decides"
        return Vote("dataset_size", 0, "neither", said)
    said = f"{count}, below 1M: lora matches full"
    held, tokens = figures.candidate.trained, question.trained_tokens
    if trains == "layers" and tokens is not None and held < tokens:
        said += f" while it has a parameter for each trained token, and it has {held:,} for {tokens:,}"
    return Vote("dataset_size", 0, "for" if trains == "layers" else "neither", said)


def new_tokens(question: Question, figures: Figures) -> Vote | None:
    if not question.new_tokens:
        return None
    name, count = figures.candidate.method, f"{question.new_tokens:,} new tokens"
    trains = method_of(name).trains
    if trains == "prompt":
        return Vote("new_tokens", 1, "against", f"{count}: {name} cannot train their rows")
    if trains == "weights":
        return Vote("new_tokens", 0, "neither", f"{count}: full trains their rows, and so does lora")
    return Vote(
        "new_tokens", 0, "for", f"{count}: their rows are trained beside the adapter; no need of full"
    )


def variants(question: Question, figures: Figures) -> Vote | None:
    if question.variants == 1:
        return None
    storage, serving = figures.storage.gigabytes, figures.serving
    said = (
        f"{question.variants} variants on this base: {storage:,.1f} GB stored; served as {serving.sentence}"
    )
    if not method_of(figures.candidate.method).freezes:
        return Vote("variants", 1, "against", said)
    return Vote("variants", 0, "for", said)


def budget(question: Question, figures: Figures) -> Vote | None:
    if question.budget_usd is None:
        return None
    training = figures.training.usd if figures.training else None
    judging = figures.evaluation.usd if figures.evaluation else None
    limit = _Limit("budget", question.budget_usd, "${:,.2f}".format, training, judging)
    return _within(limit, question, figures)


def deadline(question: Question, figures: Figures) -> Vote | None:
    if question.deadline_hours is None:
        return None
    training = figures.training.hours if figures.training else None
    judging = figures.evaluation.hours if figures.evaluation else None
    limit = _Limit("deadline", question.deadline_hours, of_hours, training, judging)
    return _within(limit, question, figures)


class _Limit(NamedTuple):
    """Is a limit on training and judging together, both in the limit's unit."""

    name: str
    most: float
    show: Callable[[float], str]
    training: float | None
    judging: float | None


def _within(limit: _Limit, question: Question, figures: Figures) -> Vote:
    """Vote against a method that not even one epoch of it keeps within a limit; fewer epochs are told
    otherwise.

    So no method wins a limit merely because its usual number of epochs is smaller.
    """
    said = f"the {limit.name} of {limit.show(limit.most)}"
    if limit.training is None or limit.judging is None:
        why = _unknown(question, figures)
        return Vote(limit.name, 0, "neither", f"{said} cannot be held against {why}")
    needed, epochs = limit.training + limit.judging, figures.epochs
    takes = f"training and judging need {limit.show(needed)}"
    if needed <= limit.most:
        return Vote(limit.name, 0, "for", f"{takes}: within {said}")
    beyond = f"{takes}: {needed / limit.most:,.1f} times {said}"
    kept = epochs * (limit.most - limit.judging) / limit.training
    if kept < min(1.0, epochs):
        return Vote(limit.name, 1, "against", f"{beyond}, and one epoch is beyond it too")
    part = f"{shown_epochs(kept, 2)} of its {shown_epochs(epochs)} epochs"
    return Vote(limit.name, 0, "against", f"{beyond}; {part} keep within it")


def serving(question: Question, figures: Figures) -> Vote | None:
    name, gpus = figures.candidate.method, figures.serving.sentence
    if question.serving is None:
        return None
    if question.serving == "adapters":
        if "adapter" not in method_of(name).exports:
            return Vote(
                "serving", 1, "against", f"export: adapter asks for one base with adapters; full is {gpus}"
            )
        return Vote("serving", 0, "for", f"export: adapter asks for one base with adapters: {gpus}")
    if "merged" not in method_of(name).exports:
        return Vote(
            "serving", 1, "against", f"export: merged asks for whole models; {name} cannot be merged into one"
        )
    return Vote("serving", 0, "for", f"export: merged asks for whole models: {gpus}")


def narrow_task(question: Question, figures: Figures) -> Vote | None:
    """Vote for full on one narrow task where general ability does not matter, or the base is small."""
    if not objective_of(question.objective).narrow:
        return None
    small = question.parameters <= SMALL
    if question.general_matters and not small:
        said = "one narrow task would favour full, but general ability is to be kept"
        return Vote("narrow_task", 0, "neither", said)
    said = "one narrow task, and nobody asks for general ability"
    if question.general_matters:
        size = f"{question.parameters / 1e6:,.0f}M parameters"
        said = f"one narrow task on {size}, a size at which full was measured to forget less than lora"
    if not method_of(figures.candidate.method).freezes:
        return Vote("narrow_task", 0, "for", f"{said}: full bends all weights to it")
    name = figures.candidate.method
    return Vote("narrow_task", 1, "against", f"{said}; {name} leaves the base's weights as they are")


def usual(question: Question, figures: Figures, plain: Figures | None = None) -> Vote:
    """Vote by what is usual. `plain`: of a method above a quantized base, the same above one that is not, if
    it was planned.
    """
    place, said = method_of(figures.candidate.method).usual
    beside = "" if plain is None or plain is figures else _beside_plain(figures, plain)
    return Vote("usual", int(place), "for" if place == 0 else "neither", f"{said}{beside}")


def _beside_plain(figures: Figures, plain: Figures) -> str:
    """Say which of both takes longer, since that depends on what else each needs, as checkpointing and
    devices. Nothing where one goes by finished trainings and the other by what is usual.
    """
    own, other = figures.training, plain.training
    if own is None or other is None or own.hours is None or other.hours is None:
        return ""
    if own.utilization.origin != other.utilization.origin:
        return ""
    return f"; here {_taken(own.hours, figures)}, {plain.candidate.method} {_taken(other.hours, plain)}"


def _taken(hours: float, figures: Figures) -> str:
    return f"{of_hours(hours)} on {figures.devices} device{'s' if figures.devices != 1 else ''}"


# What comes first outvotes what comes later.
ORDER: tuple[Callable[[Question, Figures], Vote | None], ...] = (
    fits,
    objective,
    dataset_size,
    new_tokens,
    variants,
    budget,
    deadline,
    serving,
    narrow_task,
    usual,
)


def votes(question: Question, figures: Figures, plain: Figures | None = None) -> tuple[Vote, ...]:
    """Return the votes of every rule that applies, in order. The same rules apply to every method of a
    question. `plain`: see `usual`.
    """
    found = (usual(question, figures, plain) if rule is usual else rule(question, figures) for rule in ORDER)
    return tuple(vote for vote in found if vote is not None)


def _unknown(question: Question, figures: Figures) -> str:
    if figures.training is None:
        return "a training that no number of these devices holds"
    if figures.evaluation is None:
        return "all the questions that there are (evaluation.limit: null), which nobody counted yet"
    missing = "peak" if question.hardware.peak_flops is None else "price"
    return f"hardware of unknown {missing} ({question.hardware.name})"
