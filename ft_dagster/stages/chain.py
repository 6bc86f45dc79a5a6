"""Lists all stages of a variant in their order, and runs them one after another without Dagster."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ft_dagster.errors import UserError
from ft_dagster.launch.local import ProgramFailed
from ft_dagster.settings import Retries
from ft_dagster.stage_entries import ENTRIES, GENERAL_CORPUS, RELEASE_EVALUATION
from ft_dagster.stages import (
    ancestor_overlap,
    base_evaluation,
    base_model,
    base_text,
    candidate_evaluation,
    declaration,
    evaluation,
    evaluation_texts,
    fine_tuned_model,
    general_corpus,
    model_export,
    probe,
    production_evaluation,
    prompted_base,
    refusals,
    release,
    release_evaluation,
    task_dataset,
    training_mixture,
    training_plan,
    unsaid_tokens,
)
from ft_dagster.stages.release_evaluation import judge_release
from ft_dagster.store import Artifact, closed, outage, refused, unreachable
from ft_dagster.workspace.programs import TrainingStopped
from ft_dagster.workspace.stage import Check, Stage
from ft_dagster.workspace.workspace import Workspace

_STAGES: tuple[Stage[Any], ...] = (
    base_model.SOURCE,
    declaration.STAGE,
    base_model.STAGE,
    base_text.STAGE,
    evaluation_texts.STAGE,
    unsaid_tokens.STAGE,
    task_dataset.STAGE,
    training_mixture.STAGE,
    ancestor_overlap.STAGE,
    prompted_base.STAGE,
    probe.STAGE,
    training_plan.STAGE,
    fine_tuned_model.STAGE,
    base_evaluation.GENERAL_SCORES,
    base_evaluation.STAGE,
    refusals.OF_BASE,
    refusals.STAGE,
    evaluation.STAGE,
    production_evaluation.STAGE,
    candidate_evaluation.STAGE,
    model_export.STAGE,
)
_ORDER = tuple(ENTRIES)
CHAIN = tuple(
    sorted((stage for stage in _STAGES if not stage.entry.on_demand), key=lambda one: _ORDER.index(one.name))
)
ON_DEMAND = tuple(stage for stage in _STAGES if stage.entry.on_demand)
STEPS = (release_evaluation.STEP, release.STEP)  # after the chain

T = TypeVar("T")


@dataclass(frozen=True)
class ChainOutcome:
    """Tells how a chain ended. `made`: stages whose artifact is there. `error`: why the chain did not get to
    its end. `stopped`: the folder of a training that gave up; `broken`: of one that failed.
    """

    made: dict[str, Artifact]
    error: str | None = None
    stopped: Path | None = None
    broken: Path | None = None


def up_to(name: str) -> tuple[Stage[Any], ...]:
    """Return the stages of the chain up to and with this one."""
    return CHAIN[: [stage.name for stage in CHAIN].index(name) + 1]


def run_chain(workspace: Workspace, stages: Sequence[Stage[Any]] = CHAIN) -> ChainOutcome:
    """Make the stages one after another; a check that does not pass ends the chain after its stage. After the
    last stage of the chain, what a release needs judged is made.

    Raises KeyboardInterrupt, and whatever is a defect.
    """
    made: dict[str, Artifact] = {}
    try:
        needs_corpora = any(GENERAL_CORPUS in stage.reads for stage in stages)
        general = workspace.declared().spec.data.general
        if needs_corpora and general is not None and general.corpus is not None:
            _with_retries(
                workspace,
                lambda: general_corpus.make_corpora(workspace.settings, workspace.run.id, workspace.run.say),
            )
        for stage in stages:
            made[stage.name] = _with_retries(workspace, partial(workspace.make, stage))
            failed = failed_check(workspace, stage, made[stage.name])
            if failed is not None:
                return ChainOutcome(made, _ended(stage.name, failed))
        if CHAIN[-1].name in made:
            judged = _with_retries(workspace, partial(judge_release, workspace)).check
            if not judged.passed:
                return ChainOutcome(made, _ended(RELEASE_EVALUATION.name, judged))
    except TrainingStopped as stopped:
        return ChainOutcome(made, str(stopped), stopped.run_dir)
    except (UserError, ProgramFailed) as error:
        return ChainOutcome(made, str(error), broken=getattr(error, "training", None))
    except Exception as error:
        if (not_let_in := refused(error) or closed(error)) is not None:
            return ChainOutcome(made, str(not_let_in))
        if not unreachable(error):
            raise
        return ChainOutcome(made, str(outage(error)))
    return ChainOutcome(made)


def failed_check(workspace: Workspace, stage: Stage[Any], artifact: Artifact) -> Check | None:
    """Return the first check of a stage's artifact that does not pass."""
    return next((check for check in stage.judge(workspace, artifact) if not check.passed), None)


def _ended(name: str, failed: Check) -> str:
    return f"{name}: {failed.name} did not pass: {failed.sentence}"


def _with_retries(workspace: Workspace, work: Callable[[], T]) -> T:
    """Return the result of `work`, tried again as the settings say where that can help."""
    retries: Retries = workspace.settings.retries
    for tried in range(retries.attempts + 1):
        try:
            return work()
        except Exception as error:
            if tried == retries.attempts or not passing(error):
                raise
            wait = retries.wait(tried)
            workspace.run.say(f"{error}. Tried again in {wait:g} s ({tried + 1} of {retries.attempts})")
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def passing(error: Exception) -> bool:
    """Say whether the same work may go well another time."""
    if isinstance(error, ProgramFailed):
        return error.mendable
    return not isinstance(error, UserError) and unreachable(error)
