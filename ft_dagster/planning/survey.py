"""Plans every method for one declaration on one kind of hardware, by dry run and counted FLOPs, and ranks
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.methods import METHODS, usual_method
from ft_dagster.objectives import objective_of
from ft_dagster.planning.collector import uncollected
from ft_dagster.planning.cost.learned import PlannedWork, utilizations
from ft_dagster.planning.dryrun import footprint as dryrun
from ft_dagster.planning.dryrun.footprint import Footprint
from ft_dagster.planning.estimate import ChangeRow, PlannedRow, RankedRow, SurveyDocument
from ft_dagster.planning.facts import Facts
from ft_dagster.planning.methods.changes import Change, changes
from ft_dagster.planning.methods.decision import Decision, decide
from ft_dagster.planning.methods.question import Question
from ft_dagster.planning.methods.resolved import lora_settings, with_method
from ft_dagster.planning.parallel import map_parallel
from ft_dagster.planning.planned_method import (
    DeviceMemory,
    PlanContext,
    PlannedMethod,
    plan_method,
)
from ft_dagster.spec import VariantSpec

Say = Callable[[str], None]


@dataclass(frozen=True)
class Survey:
    """Holds all methods, planned and ranked. `refused`: method -> why the declaration cannot be taught
    by it.
    """

    question: Question
    decision: Decision
    planned: dict[str, PlannedMethod]
    refused: dict[str, str]
    changes: tuple[Change, ...]  # of the method that is to be trained, where it does not fit

    @property
    def chosen(self) -> PlannedMethod:
        """Return what is to be trained: as decided, else, where nothing fits, what needs least."""
        name = self.decision.method or min(
            self.planned, key=lambda each: self.planned[each].candidate.memory_bytes
        )
        return self.planned[name]

    def document(self) -> SurveyDocument:
        """Return the decision, the layout of what is to be trained, and what would make it fit."""
        return SurveyDocument(**self.parts())

    def parts(self) -> dict[str, Any]:
        """Return the fields of `document`."""
        decision, hardware, chosen = self.decision, self.question.hardware, self.chosen
        return {
            "method": decision.method,
            "recommended": decision.recommended,
            "fits": decision.fits,
            "bake_off": decision.bake_off,
            "notes": decision.notes,
            "ranking": tuple(RankedRow.of(row) for row in decision.ranking),
            "on": str(hardware),
            "unit": hardware.unit,
            "device_bytes": hardware.memory_bytes,
            "changes": tuple(ChangeRow.of(change) for change in self.changes),
            "refused": self.refused,
            "memory_bytes": {name: planned.held for name, planned in self.planned.items()},
            "plan": PlannedRow(
                chosen.resolved.method.model_dump(mode="json"),
                chosen.resolved.training.model_dump(mode="json"),
                chosen.held,
                chosen.correction.sentence,
                tuple(chosen.resolved.reasons.rows),
            ),
        }


@uncollected()
def survey(spec: VariantSpec, facts: Facts, context: PlanContext, say: Say = lambda line: None) -> Survey:
    """Plan and rank all methods. `say`: takes a line at the beginning of each dry run, in copies of this
    process. Raises UserError where the declared method cannot be trained, or nothing can.
    """
    declared = _declared(spec)

    def attempt(name: str) -> tuple[PlannedMethod | UserError, dict[dryrun.Key, Footprint]]:
        say(f"dry run of {name}, method {list(METHODS).index(name) + 1} of {len(METHODS)}")
        try:
            return plan_method(with_method(spec, name), facts, context), dryrun.kept
        except UserError as error:
            return error, dryrun.kept

    say("loads the libraries that train")
    import peft  # noqa: F401  # with torch and transformers: once for all copies

    import ft_dagster.planning.dryrun.training_step  # noqa: F401

    planned, refused, errors = {}, {}, list[UserError]()
    for name, (found, kept) in zip(METHODS, map_parallel(attempt, list(METHODS)), strict=True):
        dryrun.kept.update(kept)
        if isinstance(found, PlannedMethod):
            planned[name] = found
        elif name == declared:
            raise found
        else:
            refused[name] = found.problem
            errors.append(found)
    if not planned:
        raise errors[0]
    question = _question(spec, facts, context, declared, planned)
    decision = decide(question, [each.candidate for each in planned.values()])
    return Survey(question, decision, planned, refused, _changes(spec, facts, context, planned, decision))


def _question(
    spec: VariantSpec,
    facts: Facts,
    context: PlanContext,
    declared: str | None,
    planned: Mapping[str, PlannedMethod],
) -> Question:
    work = {
        name: PlannedWork(context.base, each.layout, each.candidate.flops_per_token, each.candidate.padding)
        for name, each in planned.items()
    }
    return Question(
        objective=spec.objective,
        examples=facts.examples,
        tokens=facts.tokens,
        trained_tokens=facts.trained_tokens,
        parameters=facts.parameters,
        hardware=context.hardware,
        base_bytes=facts.base_bytes,
        variants=context.variants,
        new_tokens=len(spec.base_model.new_tokens),
        general_share=facts.general_share,
        general_matters=True if general_matters(spec) else None,
        budget_usd=context.budget_usd,
        deadline_hours=context.deadline_hours,
        serving=context.serving,
        method=declared,
        questions=context.questions.asked(spec.evaluation),
        beside=context.questions.beside(spec.evaluation),
        learned_utilization=utilizations(context.finished, context.hardware.name, work),
        seconds_per_question=context.seconds_per_question,
        measuring=spec.training.watch.budget or 0.0,
    )


def _changes(
    spec: VariantSpec,
    facts: Facts,
    context: PlanContext,
    planned: dict[str, PlannedMethod],
    decision: Decision,
) -> tuple[Change, ...]:
    memory = context.device_memory
    if decision.fits or memory is None:
        return ()
    name = decision.method or decision.ranking[0].method
    return changes(
        planned[name].layout,
        DeviceMemory(spec, facts, context).at_least,
        memory,
        teaches_facts=objective_of(spec.objective).teaches == "facts",
    )


def _declared(spec: VariantSpec) -> str | None:
    """Return the method that is not for the plan to choose."""
    if spec.method.name == "auto":
        return usual_method().name if lora_settings(spec) else None
    return spec.method.name


def general_matters(spec: VariantSpec) -> bool:
    """Say whether the declaration asks for general ability to be kept."""
    return bool(spec.evaluation.general) or spec.data.general is not None
