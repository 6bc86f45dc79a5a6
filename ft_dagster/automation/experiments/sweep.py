"""Runs a sweep: one variant with several values of its settings, ranked; losing trainings are stopped
early.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from ft_dagster.automation.experiments.bakeoff import for_method, said
from ft_dagster.automation.experiments.budget import Budget
from ft_dagster.automation.experiments.experiments import (
    Experiment,
    ExperimentRun,
    Limits,
    Say,
    open_experiment,
)
from ft_dagster.automation.experiments.parallel_runs import carry_out_all, name_of
from ft_dagster.errors import UserError
from ft_dagster.lineage.verdict import Rule
from ft_dagster.methods import METHODS
from ft_dagster.settings import Settings
from ft_dagster.spec import Declared
from ft_dagster.spec.load import SHORTHANDS
from ft_dagster.spec.method import MethodSpec
from ft_dagster.spec.overrides import declared_text, refuse_fixed, value_at, with_overrides, write_declared

FINISHED_BEFORE_STOPPING = 3
TASK, LOSS = "task", "validation loss"


@dataclass(frozen=True)
class Ranking:
    """Runs from best to worst; `by`: what they are ranked by, and why."""

    runs: list[ExperimentRun]
    by: str
    reason: str

    @property
    def winner(self) -> ExperimentRun | None:
        return self.runs[0] if self.runs else None


def sweep(
    settings: Settings,
    declared: Declared,
    sets: Sequence[str],
    say: Say,
    *,
    runs: int = 15,
    seed: int = 0,
    budget: Budget | None = None,
    at_once: int = 1,
) -> Experiment:
    """Run every combination of the values, or `runs` of them drawn by `seed`; finished ones are kept.

    `sets`: "field=value,value". From the fourth run on, a training gives up at an evaluation where its
    validation loss is above the median of those that were finished. A `budget` is for all runs together: no
    run is started once it is spent. `at_once`: so many side by side, the next when all of them have ended, so
    that what a training is held against does not depend on which was quicker. Raises UserError before
    anything is started.
    """
    values = parse_sets(sets)
    drawn = draw_runs(declared, values, runs, seed)
    arguments = {"set": values, "runs": runs, "seed": seed}
    with open_experiment(settings, declared, "sweep", arguments, drawn) as experiment:
        left = []
        for run in experiment.runs:
            if run.finished:
                say(f"{name_of(experiment, run)}: {run.status} before, kept")
            else:
                left.append(run)
        while left:
            if budget is not None and sum(budget.spent(r.figures) for r in experiment.runs) >= budget.amount:
                say(f"{budget} are spent; the same command with more goes on")
                break
            begun, left = left[:at_once], left[at_once:]
            for run in begun:
                say(name_of(experiment, run))
            carry_out_all(experiment, begun, say, stop_above(experiment.runs))
        return experiment


def parse_sets(sets: Sequence[str]) -> dict[str, list[Any]]:
    """Parse values for fields: `method.rank=8,16` -> {"method.rank": [8, 16]}; a value is written as in
    YAML.
    """
    found: dict[str, list[Any]] = {}
    for text in sets:
        field, given, listed = text.partition("=")
        field = f"{field}.{SHORTHANDS[field]}" if field in SHORTHANDS else field
        try:
            values = yaml.safe_load(f"[{listed}]")
        except yaml.YAMLError:
            values = []
        if not given or not values:
            raise UserError("not a list of values", field="--set", value=text, fix="Write field=value,value")
        if field in found:
            raise UserError("set twice", field="--set", value=field, fix="Give all its values in one --set")
        for value in values:
            refuse_fixed(field, value, named="--set")
        found[field] = values
    if not found:
        raise UserError("nothing to sweep", fix="Give --set field=value,value")
    return found


def draw_runs(
    declared: Declared, values: Mapping[str, Sequence[Any]], runs: int, seed: int
) -> list[ExperimentRun]:
    """Return the grid if it has at most `runs` points, else as many of it without replacement, by `seed`.

    Points that come to the same declaration (a rank of a method without one) are one run.
    """
    points = math.prod(len(options) for options in values.values())
    chosen: Sequence[int] = range(points)
    if points > runs:
        chosen = random.Random(seed).sample(range(points), runs)
    drawn: dict[str, ExperimentRun] = {}
    for point in chosen:
        overrides, dropped = _overrides(declared, _point(values, point))
        changed = with_overrides(declared, overrides)
        plain = {field: value_at(changed.spec, field) for field in overrides}
        run = ExperimentRun(len(drawn) + 1, _name(plain, values), plain, dropped)
        drawn.setdefault(changed.spec.model_dump_json(), run)
    return list(drawn.values())


def _point(values: Mapping[str, Sequence[Any]], number: int) -> dict[str, object]:
    """Return point `number` of the grid; the last field changes fastest."""
    point = {}
    for field, options in reversed(list(values.items())):
        number, place = divmod(number, len(options))
        point[field] = options[place]
    return {field: point[field] for field in values}


def _overrides(declared: Declared, point: dict[str, object]) -> tuple[dict[str, object], list[str]]:
    """Return a point as overrides, and what is dropped for its method; settings of other methods do not
    count.
    """
    if "method.name" not in point:
        return point, []
    method = str(point["method.name"])
    if method not in METHODS:
        return point, []
    foreign = {f"method.{name}" for name in MethodSpec.model_fields if name != "name"}
    foreign -= {f"method.{name}" for name in METHODS[method].declared}
    own = {field: value for field, value in point.items() if field not in foreign}
    adapted, dropped = for_method(declared, method)
    return {**adapted, **own}, said(declared, [field for field in dropped if field not in own])


def stop_above(runs: Sequence[ExperimentRun]) -> Limits:
    """Return evaluation -> median validation loss of the finished runs, on as many examples as all of them
    measured; none before there are three of them.

    The last evaluation is left out: a training that got there is finished.
    """
    done = [run for run in runs if run.status == "done" and run.curve]
    if len(done) < FINISHED_BEFORE_STOPPING:
        return Limits()
    on = _common([run.curves for run in done])
    curves = [run.curve if on is None else run.curves[on] for run in done]
    shortest = min(len(curve) for curve in curves)
    finite = {k: [loss for c in curves if (loss := c[k - 1]) is not None] for k in range(1, shortest)}
    medians = {k: median(losses) for k, losses in finite.items() if losses}
    return Limits(medians, None if on is None else int(on))


def _common(known: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the largest number of examples that all have a loss on; None where there is none."""
    shared = set.intersection(*map(set, known)) if known else set()
    return max(filter(str.isdigit, shared), key=int, default=None)


def rank(runs: Sequence[ExperimentRun]) -> Ranking:
    """Rank by the task's metric among the runs whose general rules hold; where none does, by validation
    loss.
    """
    done = [run for run in runs if run.status == "done"]
    sound = [run for run in done if _general_holds(run)]
    on = _common([run.figures.get("validation_loss_on", {}) for run in done])
    by_loss = sorted(done, key=lambda run: _loss(run, on))
    if not done:
        return Ranking([], TASK, "No run was finished.")
    if not sound:
        return Ranking(by_loss, LOSS, "The general rules of the gate hold for none.")
    best = sorted(sound, key=lambda run: (-_gain(run), _loss(run, on)))
    reason = "Runs for which the general rules of the gate do not hold come last, by validation loss."
    return Ranking(best + [run for run in by_loss if run not in sound], TASK, reason)


def _general_holds(run: ExperimentRun) -> bool:
    return all(rule.passed for rule in _rules(run) if rule.rule != "task")


def _gain(run: ExperimentRun) -> float:
    """Return the mean over the task's rules of what was gained on the base, by the rule's own metric."""
    gains = [
        -math.inf if math.isnan(rule.difference)
        else rule.difference if rule.higher_is_better else -rule.difference
        for rule in _rules(run)
        if rule.rule == "task"
    ]  # fmt: skip
    return sum(gains) / len(gains)


def _rules(run: ExperimentRun) -> list[Rule]:
    return [Rule.from_json(rule) for rule in run.figures["rules"]]


def _loss(run: ExperimentRun, on: str | None) -> float:
    """Return the loss of the best checkpoint, on as many validation examples as every run measured."""
    figures = run.figures
    loss = figures["validation_loss_best"] if on is None else figures["validation_loss_on"][on]
    return math.inf if loss is None else float(loss)


def _name(overrides: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    given = {field: overrides[field] for field in values if overrides.get(field) is not None}
    return " ".join(f"{field.rpartition('.')[2]}={value}" for field, value in given.items())


def write_winner(settings: Settings, declared: Declared, run: ExperimentRun, file: Path | None) -> Path:
    """Write a run's values into the declaration, comments kept, or the whole changed declaration into `file`.

    The declaration must then say exactly what was run, so that its artifacts are found again; else it is put
    back and UserError raised.
    """
    if file is not None:
        file.write_text(declared_text(declared, run.overrides), "utf-8")
        return file
    return write_declared(settings.project, declared, run.overrides, by_hand=run.name)
