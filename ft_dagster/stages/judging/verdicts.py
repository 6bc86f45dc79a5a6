"""Derives verdicts again from the stored samples: what was said earlier about weights is not trusted."""

from __future__ import annotations

import json
from typing import Any

from ft_dagster.errors import UserError
from ft_dagster.evaluation.measured_digests import FILE as MEASURED
from ft_dagster.gate.gates import gates_digest
from ft_dagster.gate.samples import OWN
from ft_dagster.lineage.certificate import Certificate
from ft_dagster.lineage.graph import StoredGraph, input_of, of_equal_bytes
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.spec import VariantSpec
from ft_dagster.stage_entries import (
    BASE_EVALUATION,
    BASE_MODEL,
    FINE_TUNED_MODEL,
    GENERAL_SCORES,
    REFUSALS,
    TASK_DATASET,
)
from ft_dagster.stages.evaluation import Judging, verdict_on
from ft_dagster.store import SHARED, Artifact
from ft_dagster.workspace.build_context import BuildContext
from ft_dagster.workspace.questions import chat_of, chat_of_base, check_measured, own_checks
from ft_dagster.workspace.rendered_prompts import LEAD, RENDERING, lead_of_answers
from ft_dagster.workspace.stage_version import is_of_now
from ft_dagster.workspace.workspace import Workspace

PARTS = ("task.", "general.")  # of what is asked
HOW = ("device", "dtype", "engine.name")
BY_BASE = (LEAD, f"task.{RENDERING}")  # what of a task is each base's own, or its training's


def rejudge(
    context: BuildContext, spec: VariantSpec, tuned: Artifact, evaluation: Artifact, before: Artifact
) -> Verdict:
    """Return the verdict of an evaluation of exactly these weights, derived again from its verified bytes.
    `before`: the newest evaluation of their base.
    """
    if evaluation.inputs[FINE_TUNED_MODEL.name] != tuned.digest:
        raise UserError(
            f"the newest evaluation judged other weights than {tuned.digest[:12]}",
            fix="Materialize evaluation again",
        )
    if evaluation.inputs["gates"] != gates_digest(spec.gates):
        raise UserError("the gates changed after the evaluation", fix="Materialize evaluation again")
    if evaluation.inputs[BASE_EVALUATION.name] != before.digest:
        raise UserError("the base's scores changed after the evaluation", fix="Materialize evaluation again")
    for artifact in (tuned, evaluation, before):
        context.verify(artifact)
    return verdict_on(
        spec,
        spec.evaluation,
        context.payload(before),
        context.payload(evaluation),
        declared_in=context.declared_in,
        judging=Judging.of(evaluation, own_checks(context, spec.evaluation)),
    )


def asked_alike(one: Artifact, other: Artifact, parts: tuple[str, ...] = PARTS) -> bool:
    """Say whether two evaluations put the same questions of these parts in the same way, each as its own rows
    were trained and by its base's own rules of a chat: see `asked_by_its_rules`, and `BY_BASE`.
    """

    def asked(evaluation: Artifact) -> dict[str, Any]:
        key = {**evaluation.inputs, **evaluation.spec}
        known = {name: value for name, value in key.items() if name.startswith(parts)}
        known = {name: value for name, value in known.items() if name not in BY_BASE}
        how = {name: key.get(name) for name in HOW}
        return {**known, **how, "version": evaluation.predicate["stage_version"]}

    return asked(one) == asked(other)


def asked_by_its_rules(workspace: Workspace, evaluation: Artifact) -> bool:
    """Say whether an evaluation was answered by the rules that the base beneath it is asked by today. If its
    scores of today's version do not hold them, its tokenizer does; False where both are gone.
    """
    try:
        base = input_of(StoredGraph(workspace.store), evaluation, BASE_MODEL.name)
        scores, then = _scores_of_base(workspace, evaluation), evaluation.spec.get("chat")
        if scores is None:
            same = base is not None and then == chat_of_base(
                workspace.context, base, workspace.upstream(BASE_EVALUATION.name)
            )
        else:
            same = then == chat_of(scores)
        return same and (base is None or _led_as_today(workspace, evaluation, base))
    except UserError:
        return False


def _led_as_today(workspace: Workspace, evaluation: Artifact, base: Artifact) -> bool:
    """Say whether the expected answers were cut as today, without what the base's template writes before
    them. True for a base that is gone, and of which nothing is known.
    """
    if "task.test" not in evaluation.inputs:
        return True
    try:
        rendering = evaluation.spec.get(f"task.{RENDERING}")
        lead = lead_of_answers(workspace.context, workspace.upstream(TASK_DATASET.name), base, rendering)
    except UserError:
        return True
    return bool(evaluation.spec.get(LEAD) == lead)


def _scores_of_base(workspace: Workspace, evaluation: Artifact) -> Artifact | None:
    """Return today's general scores of the base beneath an evaluation, where they are those it was held
    against.
    """
    store, places = workspace.store, (workspace.key.prefix, SHARED)
    before = input_of(StoredGraph(store), evaluation, BASE_EVALUATION.name)
    if before is None:
        return None
    scores, base = before.inputs[GENERAL_SCORES.name], evaluation.inputs[BASE_MODEL.name]
    same = of_equal_bytes(store, places, GENERAL_SCORES.name, scores, **{BASE_MODEL.name: base})
    return next(filter(is_of_now, same), None)


def own_verdict(workspace: Workspace, export: Artifact, evaluation: Artifact) -> Verdict | None:
    """Return the verdict of an export that was evaluated by itself, derived again from its samples; None for
    others.

    Raises UserError where it was not exactly these bytes that were put to the questions of `evaluation`, by
    the same rules of a chat.
    """
    folder = workspace.evidence(export) / OWN
    if not (folder / "payload").is_dir():
        return None
    if export.spec.get("chat") != evaluation.spec.get("chat"):
        raise UserError(
            "the export was asked by other rules of a chat than the weights were",
            fix="Materialize model_export again",
        )
    measured = json.loads((folder / "evidence" / MEASURED).read_text("utf-8"))
    check_measured(
        {"measured": measured}, {**evaluation.figures["measured"], "weights": export.digest}
    )  # fmt: skip
    if workspace.spec.gates.refusals is not None:
        asked = json.loads(
            (workspace.evidence(export) / REFUSALS.name / "evidence" / MEASURED).read_text("utf-8")
        )
        check_measured({"measured": asked}, {"weights": export.digest, "base": measured["base"]})
    spec, before = workspace.spec, workspace.payload(workspace.upstream(BASE_EVALUATION.name))
    return verdict_on(
        spec,
        spec.evaluation,
        before,
        folder / "payload",
        declared_in=workspace.declared_in,
        judging=Judging.of(evaluation, own_checks(workspace.context, workspace.spec.evaluation)),
    )


def certificate_of(workspace: Workspace, export: Artifact) -> Certificate:
    """Return the certificate of an export. Raises UserError where certificate.json is none."""
    return Certificate.read(workspace.evidence(export) / "certificate.json")
