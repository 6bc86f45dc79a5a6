"""What a plan rests on beside the declaration and the data: the base's shapes, the tenant's variants on it,
and what their finished trainings taught. Nothing of another tenant's enters a plan from here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ft_dagster.data.derived import new_token_ids_of, parent_artifact
from ft_dagster.data.weights import CONFIG
from ft_dagster.errors import UserError
from ft_dagster.lineage.graph import StoredGraph, input_of
from ft_dagster.planning.cost.learned import Finished, finished_training
from ft_dagster.planning.cost.questions import NOT_COUNTED, QuestionsThere
from ft_dagster.planning.cost.serving import Manner
from ft_dagster.planning.hardware.catalogue import Hardware
from ft_dagster.planning.survey import PlanContext
from ft_dagster.spec import Declarations, VariantKey, VariantSpec
from ft_dagster.stage_entries import (
    EVALUATION,
    EVALUATION_TEXTS,
    FINE_TUNED_MODEL,
    MODEL_EXPORT,
    TASK_DATASET,
    TRAINING_MIXTURE,
)
from ft_dagster.stages.workspace import Desk
from ft_dagster.store import Artifact, Store, read_head
from ft_dagster.training.contract import ParentAdapter
from ft_dagster.training.training_figures import TrainingFigures

ASKED = 8  # variants that are asked how long a question takes: a fleet has thousands


def context_of(desk: Desk, spec: VariantSpec, base: Artifact, hardware: Hardware) -> PlanContext:
    """Of a recorded base."""
    neighbours = variants_on_base(desk.project, desk.key, spec)
    return PlanContext(
        desk.base_folder(base),
        hardware,
        variants=len(neighbours),
        new_token_ids=tuple(new_token_ids_of(desk.store, base, desk.cache)),
        parent=_parent(desk, base),
        budget_usd=spec.resources.budget_usd,
        deadline_hours=spec.resources.deadline_hours,
        serving=_manner(spec),
        base=base.digest,
        finished=_finished(desk.store, neighbours),
        questions=_questions_there(desk),
        seconds_per_question=seconds_per_question(desk, neighbours, hardware.name),
    )


def context_without_base(desk: Desk, spec: VariantSpec, folder: Path, hardware: Hardware) -> PlanContext:
    """Of a base that no run has recorded yet, in `folder`: its finished trainings are not known."""
    rows = int(json.loads((folder / CONFIG).read_text("utf-8")).get("vocab_size") or 0)
    return PlanContext(
        folder,
        hardware,
        variants=len(variants_on_base(desk.project, desk.key, spec)),
        new_token_ids=tuple(range(rows, rows + len(spec.base_model.new_tokens))),
        budget_usd=spec.resources.budget_usd,
        deadline_hours=spec.resources.deadline_hours,
        serving=_manner(spec),
    )


def variants_on_base(project: Path, key: VariantKey, spec: VariantSpec) -> list[VariantKey]:
    """The tenant's declared variants on this one's base, itself first; none whose declaration is broken."""
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


def _parent(desk: Desk, base: Artifact) -> ParentAdapter | None:
    """The adapter that stays frozen beneath, whatever method the plan comes to."""
    parent = base.figures.get("parent")
    if not parent or parent["mode"] != "stack":
        return None
    adapter = parent_artifact(desk.store, base, MODEL_EXPORT.name)
    return ParentAdapter(adapter=desk.payload(adapter), digest=adapter.digest)


def _questions_there(desk: Desk) -> QuestionsThere:
    """As the data set of the newest mixture has them, and the texts that it was looked through for."""
    with suppress(UserError):
        graph = StoredGraph(desk.store)
        rows = input_of(graph, desk.upstream(TRAINING_MIXTURE.name), TASK_DATASET.name)
        texts = None if rows is None else input_of(graph, rows, EVALUATION_TEXTS.name)
        return QuestionsThere(
            None if rows is None else rows.figures["rows"]["test"],
            None if texts is None else tuple(texts.figures["by_task"].values()),
        )
    return NOT_COUNTED


def seconds_per_question(desk: Desk, variants: list[VariantKey], hardware: str | None = None) -> float | None:
    """Of one model, in the newest evaluation of this variant, else of another one; None where the first few
    have none. `variants`: the tenant's on its base, itself first; `hardware`: on which they were trained,
    None: on any.
    """
    for key in variants[:ASKED]:
        with suppress(UserError):  # said to who asks for that variant
            judged = read_head(desk.store, key.prefix, EVALUATION.name)
            if judged is None or not _was_on(desk.store, key, hardware):
                continue
            asked = _asked(judged.figures)
            if asked:
                return float(judged.figures["seconds"] / asked)
    return None


def _was_on(store: Store, key: VariantKey, hardware: str | None) -> bool:
    if hardware is None:
        return True
    model = read_head(store, key.prefix, FINE_TUNED_MODEL.name)
    predicted = None if model is None else TrainingFigures.of(model).predicted
    return predicted is not None and predicted["hardware"] == hardware


def _asked(figures: Mapping[str, Any]) -> int:
    """Questions of its tasks: all else that an evaluation asks comes with these."""
    rules = figures.get("verdict", {}).get("rules", ())
    asked = sum(rule["questions"] for rule in rules if rule["rule"] in ("task", "general_benchmark"))
    return int(asked or figures.get("questions") or 0)


def _finished(store: Store, keys: list[VariantKey]) -> tuple[Finished, ...]:
    """The newest training of each of these variants, where it was measured and what it left holds."""
    found = []
    for key in keys:
        with suppress(UserError):  # of another variant: said to who asks for that one
            head = read_head(store, key.prefix, FINE_TUNED_MODEL.name)
            known = None if head is None else finished_training(TrainingFigures.of(head))
            found += [] if known is None else [known]
    return tuple(found)
