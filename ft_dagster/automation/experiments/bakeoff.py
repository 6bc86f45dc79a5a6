"""Runs a bake-off: one variant by several methods, each given the same FLOPs or the same minutes."""

from __future__ import annotations

from collections.abc import Sequence

from ft_dagster.automation.experiments.budget import Budget, steps_within
from ft_dagster.automation.experiments.experiments import Experiment, ExperimentRun, Say, open_experiment
from ft_dagster.automation.experiments.parallel_runs import carry_out_all, name_of
from ft_dagster.errors import UserError
from ft_dagster.methods import METHODS
from ft_dagster.settings import Settings
from ft_dagster.spec import Declared
from ft_dagster.spec.method import METHOD_SETTINGS, MethodSpec
from ft_dagster.spec.overrides import value_at, with_overrides

MAX_STEPS = "training.max_steps"


def bakeoff(
    settings: Settings,
    declared: Declared,
    methods: Sequence[str],
    budget: Budget,
    say: Say,
    *,
    at_once: int = 1,
) -> Experiment:
    """Plan every method's steps, then train and judge each, `at_once` of them in parallel; what was finished
    before is kept.

    Raises UserError before anything is started where the methods are wrong, and before any training where
    the budget does not pay for one step of a method.
    """
    runs = _runs(declared, methods)
    arguments = {"methods": list(methods), "budget": str(budget)}
    with open_experiment(settings, declared, "bakeoff", arguments, runs) as experiment:
        for run in experiment.runs:
            if not run.finished and MAX_STEPS not in run.overrides:
                say(f"{run.name}: finding out how many steps {budget} pay for")
                _allot(experiment, run, budget)
        for run in experiment.runs:
            if run.finished:
                say(f"{name_of(experiment, run)}: {run.status} before, kept")
        left = [run for run in experiment.runs if not run.finished and MAX_STEPS in run.overrides]
        for first in range(0, len(left), at_once):
            begun = left[first : first + at_once]
            for run in begun:
                say(f"{name_of(experiment, run)}: {run.overrides[MAX_STEPS]} steps for {budget}")
            carry_out_all(experiment, begun, say)
        return experiment


def _runs(declared: Declared, methods: Sequence[str]) -> list[ExperimentRun]:
    for method in methods:
        if method not in METHODS:
            raise UserError(
                "no such method", field="--methods", value=method, fix=f"There are: {', '.join(METHODS)}"
            )
    if len(set(methods)) < 2 or len(set(methods)) < len(methods):
        raise UserError(
            "a bake-off needs two methods or more, each once",
            field="--methods",
            value=",".join(methods),
            fix="Write --methods full,lora",
        )
    runs = []
    for number, method in enumerate(methods, 1):
        overrides, dropped = for_method(declared, method)
        with_overrides(declared, overrides)
        runs.append(ExperimentRun(number, method, overrides, said(declared, dropped)))
    return runs


def _allot(experiment: Experiment, run: ExperimentRun, budget: Budget) -> None:
    """Give a run its steps; a method that cannot be planned on this base or host fails alone."""
    found = steps_within(experiment, run, budget)
    if isinstance(found, str):
        run.status, run.error = "failed", found
    else:
        run.overrides[MAX_STEPS] = found
    experiment.save()


def for_method(declared: Declared, method: str) -> tuple[dict[str, object], list[str]]:
    """Return the overrides that turn a declaration to another method, and the declared fields that those
    drop.

    Dropped: settings that the method does not have; and the learning rate where it was chosen for a method
    with another usual one: the plan's own default takes its place.
    """
    unset = {
        f"method.{name}": setting.default
        for name, setting in MethodSpec.model_fields.items()
        if name != "name" and name not in METHOD_SETTINGS[method]
    }
    if not _same_rates(declared.spec.method.name, method):
        unset["training.learning_rate"] = None
    dropped = {field: value for field, value in unset.items() if value_at(declared.spec, field) != value}
    return {"method.name": method, **dropped, **_export(declared, method)}, list(dropped)


def _same_rates(declared: str, method: str) -> bool:
    """Say whether a rate that was chosen for one method is usual for the other; of `auto` nobody knows."""
    return declared == method or (declared != "auto" and METHODS[declared].rates == METHODS[method].rates)


def said(declared: Declared, dropped: Sequence[str]) -> list[str]:
    return [f"{field} {value_at(declared.spec, field)}" for field in dropped]


def _export(declared: Declared, method: str) -> dict[str, object]:
    """Return the export that the method can give: nothing of an experiment is exported, but a declaration
    must say it.
    """
    formats = METHODS[method].exports
    return {} if declared.spec.export.format in formats else {"export.format": formats[0]}
