"""Counts budgets of experiments: so many FLOPs or minutes, and how many optimizer steps they pay for."""

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, cast

from ft_dagster.automation.experiments.experiments import (
    PLANNED,
    TRAINED,
    Experiment,
    ExperimentRun,
    RunFigures,
    workspace_of,
)
from ft_dagster.errors import UserError
from ft_dagster.schema_version import stored_as
from ft_dagster.stage_entries import BASE_MODEL, FINE_TUNED_MODEL, TRAINING_MIXTURE, TRAINING_PLAN
from ft_dagster.stages.chain import run_chain
from ft_dagster.store import Artifact
from ft_dagster.training.contract import PLAN_FILE
from ft_dagster.workspace.stacking import trained_base
from ft_dagster.workspace.workspace import Workspace

if TYPE_CHECKING:
    from ft_dagster.training.batches.mixture import Examples
    from ft_dagster.training.contract import Plan
    from ft_dagster.training.watch.flops import FlopsModel

CALIBRATION = {"training.max_steps": 5, "training.evaluations": 1}
IN_MINUTES = "Give the budget in minutes"
LOOK_AHEAD = 1.5
MOST_STEPS = 1_000_000


@dataclass(frozen=True)
class Budget:
    """Says how much each experiment may spend: FLOPs or minutes."""

    kind: Literal["flops", "minutes"]
    amount: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `flops=2e14` or `minutes=3`. Raises UserError."""
        kind, _, amount = text.partition("=")
        try:
            number = float(amount)
        except ValueError:
            number = math.nan
        if kind not in ("flops", "minutes") or not 0 < number < math.inf:
            raise UserError("not a budget", field="--budget", value=text, fix="Write flops=2e14 or minutes=3")
        return cls(cast(Literal["flops", "minutes"], kind), number)

    def spent(self, figures: RunFigures) -> float:
        """Return what a run with these figures took of such a budget; none before it has finished."""
        if not figures:
            return 0.0
        if self.kind == "minutes":
            return float(figures["training_seconds"] / 60)
        if figures["flops"] is None:
            raise UserError("FLOPs of this architecture cannot be counted", fix=IN_MINUTES)
        return float(figures["flops"])

    def __str__(self) -> str:
        return f"{self.kind}={self.amount:g}"


def steps_within(experiment: Experiment, run: ExperimentRun, budget: Budget) -> int | str:
    """Return the optimizer steps whose cost comes nearest to the budget, or why the run cannot be planned.

    FLOPs are counted over the very batches that will be trained on. Minutes are those of the steps alone,
    at the speed of a training of five steps, its first one left out. Raises UserError where the budget does
    not pay for one step.
    """
    if budget.kind == "minutes":
        return _steps_in_minutes(experiment, run, budget)
    label = str(run.number)
    workspace = workspace_of(experiment, label, run.overrides)
    outcome = run_chain(workspace, PLANNED)
    if outcome.error:
        return outcome.error
    plan = _plan(workspace, outcome.made[TRAINING_PLAN.name])
    cost = _cost(workspace, outcome.made[BASE_MODEL.name], plan)
    mixture = workspace.payload(outcome.made[TRAINING_MIXTURE.name])
    return _steps_for_flops(plan, mixture, cost, budget, run.name)


class _Cost(NamedTuple):
    """Holds what a training is counted by. `attends`: see `watch.budget.Attends`."""

    model: "FlopsModel"
    attends: Callable[[int], bool]


def _cost(workspace: Workspace, artifact: Artifact, plan: "Plan") -> _Cost:
    from transformers import AutoConfig

    from ft_dagster.methods import method_of
    from ft_dagster.training.batches.attention import attends_by_example
    from ft_dagster.training.watch.flops import count_flops

    base = trained_base(workspace.context, artifact, plan.method.name)
    checkpointing = plan.training.gradient_checkpointing
    model = count_flops(base, plan.method, gradient_checkpointing=checkpointing)
    if model is None:
        raise UserError(
            "the FLOPs of this architecture cannot be counted",
            field="base_model", value=str(base.folder), fix=IN_MINUTES,
        )  # fmt: skip
    config = AutoConfig.from_pretrained(base.folder)
    return _Cost(model, attends_by_example(config, packs=method_of(plan.method.name).packs))


def _plan(workspace: Workspace, artifact: Artifact) -> "Plan":
    from ft_dagster.training.contract import Plan

    content = json.loads((workspace.payload(artifact) / PLAN_FILE).read_text("utf-8"))
    return stored_as(Plan, content, file=PLAN_FILE)


def _steps_for_flops(plan: "Plan", mixture: Path, cost: _Cost, budget: Budget, method: str) -> int:
    """Lay out the training's own bins until their FLOPs pass the budget; return the step nearest to it."""
    import numpy as np

    from ft_dagster.training.batches.mixture import open_split

    with tempfile.TemporaryDirectory() as scratch:
        examples = open_split(mixture, "train", Path(scratch))
    assert examples is not None  # or there would be no plan
    steps, spent = 8, np.zeros(1)
    while spent[-1] < budget.amount:
        if steps > MOST_STEPS:
            raise UserError(
                f"pays {method} for more than {MOST_STEPS:,} steps", field="--budget", value=str(budget),
                fix="Give less",
            )  # fmt: skip
        steps = math.ceil(steps * LOOK_AHEAD * max(1.0, budget.amount / spent[-1] if spent[-1] else 1.0))
        spent = np.cumsum(_flops_of_steps(cost, examples, plan, steps))
    if spent[0] > 2 * budget.amount:
        raise UserError(
            f"does not pay for one step of {method}, which takes {spent[0]:.3g} FLOPs",
            field="--budget", value=str(budget), fix="Give more, or declare smaller batches",
        )  # fmt: skip
    return int(np.abs(spent - budget.amount).argmin()) + 1


def _flops_of_steps(cost: _Cost, examples: "Examples", plan: "Plan", steps: int) -> list[int]:
    """Return the FLOPs of each of the first `steps` optimizer steps, from the bins that the trainer will lay
    out.
    """
    from ft_dagster.training.batches.packing import schedule
    from ft_dagster.training.methods import laid_out
    from ft_dagster.training.watch.budget import work_of_micro_batch

    settings, ranks = plan.training, plan.ranks
    examples, capacity = laid_out(plan, examples)
    asked = settings.model_copy(update={"max_steps": steps})
    bins = schedule(
        examples.lengths, examples.shards, asked, capacity, settings.seed, ranks, examples.beginnings
    )
    rows, micro_batches = settings.per_device_train_batch_size, settings.gradient_accumulation_steps * ranks
    batches = (bins[at : at + rows] for at in range(0, len(bins), rows))
    costs = [cost.model.sum(*work_of_micro_batch(batch, examples, cost.attends)) for batch in batches]
    return [sum(costs[at : at + micro_batches]) for at in range(0, len(costs), micro_batches)]


def _steps_in_minutes(experiment: Experiment, run: ExperimentRun, budget: Budget) -> int | str:
    label = f"{run.number}-speed"
    workspace = workspace_of(experiment, label, run.overrides | CALIBRATION)
    outcome = run_chain(workspace, TRAINED)
    tuned = outcome.made.get(FINE_TUNED_MODEL.name)
    if tuned is None:
        return outcome.error or "it made no model"
    log = workspace.evidence(tuned) / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    seconds = mean([line["seconds"] for line in lines if "seconds" in line][1:])
    if seconds > 2 * 60 * budget.amount:
        raise UserError(
            f"does not pay for one step of {run.name}, which takes {seconds / 60:.3g} minutes",
            field="--budget", value=str(budget), fix="Give more, or declare smaller batches",
        )  # fmt: skip
    return max(1, round(60 * budget.amount / seconds))
