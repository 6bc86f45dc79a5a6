"""Shows what a training measured, as people read it: its curves, its figures, and what was estimated of
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft_dagster.report.figures import ABSENT, change, count, duration, percent, size
from ft_dagster.training.training_figures import TrainingFigures

FIGURES = ("figure", "value", "measured on")
ESTIMATED = ("figure", "estimated", "actual")
LOSSES = {"validation_loss": "validation", "loss": "training", "general_holdout_loss": "general"}
VALIDATIONS = ("validation", "general")  # curves of a few looks, each of which is marked
STEPS, NATS, RIGHT = "optimizer step", "nats a token", "share right"
QUESTIONS = "general questions"
WINDOWS = 40  # of a curve of steps, so that it is read
# While it trains, on the general texts that it watches; the general loss of a model is the evaluation's.
# Of a base that cannot be run on shapes alone: of experts every one counts, though a token reaches a few.
FLOPS_BY_WEIGHTS = "FLOPs, estimated by the weights"
APART = ", experts not among them"
TASK, GENERAL = "validation loss", "loss on watched general text"


def losses(log: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Return the curves of log.jsonl that are there: name -> (step, nats a token), in the order of the
    steps.
    """
    rows = list(log)
    found = {
        shown: sorted((row["step"], row[name]) for row in rows if row.get(name) is not None)
        for name, shown in LOSSES.items()
    }
    return {name: points for name, points in found.items() if points}


def smoothed(log: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Return the same curves with the training's as means over up to `WINDOWS` windows of steps, each token
    that is trained on counting alike: a step holds rows of one source or another, whose losses are apart.
    """
    rows = list(log)
    found = losses(rows)
    steps = sorted((row for row in rows if row.get("loss") is not None), key=lambda row: row["step"])
    wide = -(-len(steps) // WINDOWS)
    if wide <= 1:
        return found
    windows = [steps[start : start + wide] for start in range(0, len(steps), wide)]
    name = LOSSES["loss"]
    means = {f"{name}, mean of {wide} steps": [(some[-1]["step"], _mean(some)) for some in windows]}
    return {
        key: points
        for old, one in found.items()
        for key, points in (means if old == name else {old: one}).items()
    }


def _mean(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean loss of some steps by tokens trained on; of an older log each step counts alike."""
    weights = [float(row.get("trained_tokens") or 1) for row in rows]
    return sum(row["loss"] * weight for row, weight in zip(rows, weights, strict=True)) / sum(weights)


def asked(log: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Return the accuracy on the general questions that were asked while it trained, and the base's as a
    level line: name -> (step, share); nothing of fewer than two looks.
    """
    means = ((row["step"], (row.get("benchmark") or {}).get("mean")) for row in log)
    looks = sorted({step: mean for step, mean in means if mean is not None}.items())
    if len(looks) < 2 or looks[0][0] != 0:
        return {}
    base = looks[0][1]
    return {QUESTIONS: looks, "the base": [(looks[0][0], base), (looks[-1][0], base)]}


@dataclass(frozen=True)
class Course:
    """Shows a training between what it learned and what it forgot. `looks`: step -> (loss on the general text
    that it watched, validation loss), nats a token. `exported`: the step whose weights are kept, one of
    these. `limit`: of the former loss; None: none.
    """

    looks: Mapping[int, tuple[float, float]]
    exported: int
    limit: float | None

    @property
    def sentence(self) -> str:
        """Say where it began, what was exported and where it ended."""
        told = sorted({min(self.looks), self.exported, max(self.looks)})
        places = ", ".join(self.place(step) for step in told)
        limit = "" if self.limit is None else f"; the limit of the latter is {self.limit:.3f}"
        return f"{TASK.capitalize()} and {GENERAL} at {count(len(self.looks))} looks: {places}{limit}"

    def place(self, step: int) -> str:
        """Say a look in words."""
        general, task = self.looks[step]
        return f"{task:.3f} and {general:.3f} at step {count(step)}{' (exported)' * (step == self.exported)}"


def course_of(log: Iterable[Mapping[str, Any]], figures: TrainingFigures) -> Course | None:
    """Return the course by log.jsonl; None where fewer than two looks measured both losses, or the exported
    model's did not.
    """
    known = {name: dict(points) for name, points in losses(log).items()}
    general, task = (known.get(LOSSES[name], {}) for name in ("general_holdout_loss", "validation_loss"))
    looks = {int(step): (general[step], task[step]) for step in general if step in task}
    if len(looks) < 2 or figures.best_step not in looks:
        return None
    first, rise = general.get(0), figures.general_loss_limit
    return Course(looks, figures.best_step, None if first is None or rise is None else first + rise)


def figure_rows(figures: TrainingFigures) -> list[list[Any]]:
    """Return a row for `FIGURES`; what was not measured is left out."""
    on, rows = figures.measured_on, [*_seen(figures), *_spent(figures)]
    return [[name, value, on.get(key, "") if key else ""] for name, value, key in rows if value]


def _seen(figures: TrainingFigures) -> list[tuple[str, str, str]]:
    """Return name, value and what it was measured on, of what shows how the training went."""
    return [
        (
            "steps",
            f"{count(figures.steps)}, {figures.epochs:.3g} epochs; step {count(figures.best_step)} is kept",
            "",
        ),
        (
            "validation loss",
            _two("loss", figures.validation_loss_first, figures.validation_loss_best),
            "validation loss",
        ),
        ("training loss", _two("loss", figures.train_loss_first, figures.train_loss_last), ""),
        (
            GENERAL,
            _two("loss", figures.general_holdout_loss_first, figures.general_holdout_loss_last),
            "general holdout loss",
        ),
        (
            QUESTIONS,
            _two("acc", figures.benchmark_first, figures.benchmark_last),
            "general benchmark",
        ),
        (
            "repeated 4-grams",
            _two("share", figures.repeated_4grams_first, figures.repeated_4grams_last),
            "general prompts",
        ),
        (
            "empty answers",
            _two("share", figures.empty_answers_first, figures.empty_answers_last),
            "general prompts",
        ),
    ]


def _shared(figures: TrainingFigures) -> list[tuple[str, str, str]]:
    """Return what beginnings in common saved, if any."""
    if not figures.shared_tokens:
        return []
    said = f"{count(figures.shared_tokens)} tokens not computed again for another example"
    return [("beginnings in common", said, "")]


def _spent(figures: TrainingFigures) -> list[tuple[str, str, str]]:
    """Return the same of what the training computed, took and left."""
    return [
        ("tokens", f"{count(figures.tokens)}, of which {count(figures.trained_tokens)} trained on", ""),
        ("packing", f"{percent(figures.packing_fill)} of the positions held a token", ""),
        *_shared(figures),
        (
            "speed",
            ""
            if figures.tokens_per_second is None
            else f"{count(figures.tokens_per_second)} tokens a second",
            "",
        ),
        ("time of the steps", duration(figures.training_seconds), ""),
        ("time of the program", duration(figures.seconds), ""),
        ("memory at its highest", size(figures.peak_bytes), ""),
        ("memory of the process, with its imports", size(figures.peak_memory_bytes), ""),
        ("weights trained", f"{count(figures.trainable_parameters)} of {count(figures.parameters)}", ""),
        (
            "FLOPs" if figures.flops else FLOPS_BY_WEIGHTS,
            f"{figures.flops or figures.flops_estimate:.3g}",
            "",
        ),
        ("measuring", _measuring(figures), ""),
        (
            f"effective rank{APART if figures.expert_matrices else ''}",
            "" if figures.effective_rank is None else f"{figures.effective_rank:.1f}",
            "",
        ),
        ("checkpoints", _checkpoints(figures), ""),
        ("resumed from step", ", ".join(map(str, figures.resumed_from)), ""),
    ]


def plotted(figures: TrainingFigures) -> dict[str, float]:
    """Return the figures that are worth a line over time and over variants, each in the unit of its name."""
    known = {
        "validation_loss": figures.validation_loss_best,
        "general_loss": figures.general_holdout_loss_last,
        "training_minutes": figures.training_seconds / 60,
        "tokens_per_second": figures.tokens_per_second,
        "peak_memory_gb": figures.peak_bytes / 1e9,
        "effective_rank": figures.effective_rank,
    }
    return {name: float(f"{value:.4g}") for name, value in known.items() if value is not None}


def estimated_rows(figures: TrainingFigures) -> list[list[Any]]:
    """Return time and memory as the plan estimated them, beside what they were; none of an older training.

    The estimated time is that of the steps and of what is measured between them: so is the program's.
    """
    plan = figures.predicted
    if not plan:
        return []
    steps, whole = (plan.get(name) for name in ("training_hours", "hours"))
    return [
        ["time of the training", _of_hours(steps), duration(max(figures.seconds, figures.training_seconds))],
        *([["training and judging", _of_hours(whole), ABSENT]] if steps is None else []),
        ["memory at its highest", size(plan.get("memory_bytes")), size(figures.peak_bytes)],
    ]


def _of_hours(hours: float | None) -> str:
    return ABSENT if hours is None else duration(3600 * hours)


def _two(metric: str, first: float | None, last: float | None) -> str:
    return "" if first is None and last is None else change(metric, first, last)


def _measuring(figures: TrainingFigures) -> str:
    """Say what the looks took that were made for this training; those that were kept of its base cost
    nothing.
    """
    if not figures.flops or figures.measuring_flops is None:
        return ""
    return f"{percent(figures.measuring_flops / figures.flops)} of these FLOPs beside them"


def _checkpoints(figures: TrainingFigures) -> str:
    weights, rest = size(figures.checkpoint_weights_bytes), size(figures.checkpoint_optimizer_bytes)
    return f"{figures.checkpoints_kept}: weights {weights}, optimizer states {rest}"
