"""Collects what a plan rests on beside the declaration and the data: the base's shapes, the tenant's variants
on it, and what their finished trainings taught. Nothing of another tenant's enters a plan from here.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ft_dagster.data.rows.planted import number_of
from ft_dagster.errors import UserError
from ft_dagster.evaluation.refusal_prompts import prompts_file, read_prompts
from ft_dagster.model_files.weights import CONFIG
from ft_dagster.planning.cost.questions import QuestionsThere
from ft_dagster.planning.cost.serving import Manner
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.planned_method import PlanContext
from ft_dagster.spec import Declarations, VariantKey, VariantSpec
from ft_dagster.spec.load import load_corpus
from ft_dagster.store import Artifact
from ft_dagster.workspace.build_context import BuildContext

PAST = ("finished_on_base", "seconds_per_question", "questions_there")  # what `context_of` asks


def context_of(
    context: BuildContext, spec: VariantSpec, base: Artifact, mixture: Artifact | None, hardware: Hardware
) -> PlanContext:
    """Return the context of a recorded base; `mixture`: None where there is none yet."""
    neighbours, past = variants_on_base(context.project, context.key, spec), context.past
    return PlanContext(
        context.base_folder(base),
        hardware,
        variants=len(neighbours),
        new_token_ids=tuple(context.new_token_ids(base)),
        parent=context.parent_adapter(base),  # whatever method the plan comes to
        budget_usd=spec.resources.budget_usd,
        deadline_hours=spec.resources.deadline_hours,
        serving=_manner(spec),
        resume_points=context.resume_points,
        base=base.digest,
        finished=past.finished_on_base(neighbours),
        questions=_questions(context, spec, mixture),
        seconds_per_question=past.seconds_per_question(neighbours, hardware.name),
    )


def context_without_base(
    context: BuildContext, spec: VariantSpec, folder: Path, hardware: Hardware
) -> PlanContext:
    """Return the context of a base that no run has recorded yet, in `folder`: its finished trainings are not
    known.
    """
    rows = int(json.loads((folder / CONFIG).read_text("utf-8")).get("vocab_size") or 0)
    return PlanContext(
        folder,
        hardware,
        variants=len(variants_on_base(context.project, context.key, spec)),
        new_token_ids=tuple(range(rows, rows + len(spec.base_model.new_tokens))),
        budget_usd=spec.resources.budget_usd,
        deadline_hours=spec.resources.deadline_hours,
        serving=_manner(spec),
        resume_points=context.resume_points,
        questions=_questions(context, spec, None),
    )


def _questions(context: BuildContext, spec: VariantSpec, mixture: Artifact | None) -> QuestionsThere:
    """Count the questions there are; before there is a mixture, the canaries that its corpus declares. Raises
    UserError where prompts are declared that cannot be asked.
    """
    refusals, general = spec.gates.refusals, spec.data.general
    prompts = 0
    if refusals is not None:
        file = prompts_file(refusals, context.project, context.declared_in, context.roots)
        prompts = len(read_prompts(file))
    if mixture is not None:
        return replace(context.past.questions_there(mixture), refusals=prompts)
    planted = None
    if general is not None and general.corpus is not None:
        planted = load_corpus(context.project, general.corpus, asked_by=context.declared_in).canaries
    return QuestionsThere(refusals=prompts, planted=0 if planted is None else number_of(planted))


def variants_on_base(project: Path, key: VariantKey, spec: VariantSpec) -> list[VariantKey]:
    """Return the tenant's declared variants on this one's base, itself first; none whose declaration is
    broken.
    """
    found = [key]
    declarations = Declarations(project)
    for other in declarations:
        if other == key or other.tenant != key.tenant:
            continue
        try:
            if declarations.declared(other).spec.base_model == spec.base_model:
                found.append(other)
        except UserError:
            continue
    return found


def _manner(spec: VariantSpec) -> Manner:
    return "copies" if spec.export.format == "merged" else "adapters"
