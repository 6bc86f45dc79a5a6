"""The tuned model on the same questions as its base, and the verdict of the gate."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ft_dagster.evaluation.arithmetic import Dtype
from ft_dagster.evaluation.gates import gates_digest, judge
from ft_dagster.evaluation.samples import read_samples
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.spec import VariantSpec
from ft_dagster.spec.narrow import narrowed
from ft_dagster.spec.policy import Policy
from ft_dagster.stages import asked
from ft_dagster.stages.asked import ModelQuestions, scores_in
from ft_dagster.stages.hands import Hands
from ft_dagster.stages.inputs import Digest, recorded
from ft_dagster.stages.policy import refuse_frozen
from ft_dagster.stages.stage import Check, Stage
from ft_dagster.stages.view import View
from ft_dagster.stages.workspace import Workspace
from ft_dagster.store import Artifact, Attempt

VERDICT = "verdict.json"
POLICY = "policy.json"
JUDGED = ("objective", "gates")


@dataclass(frozen=True)
class EvaluationInputs:
    """`gates`: digest of the declared gates. `spec`: by what the answers are judged. `policy`: today's, kept
    beside the verdict; release and export hold the declaration against theirs.
    """

    base_model: Artifact
    fine_tuned_model: Artifact
    base_evaluation: Artifact
    gates: Digest
    spec: VariantSpec
    task: asked.OwnTask
    general: asked.General
    device: str
    dtype: Dtype
    policy: Policy = recorded()


def inputs(view: View) -> EvaluationInputs:
    return EvaluationInputs(
        view.upstream("base_model"),
        view.upstream("fine_tuned_model"),
        view.upstream("base_evaluation"),
        Digest(gates_digest(view.spec.gates)),
        narrowed(view.spec, JUDGED),
        asked.own_task(view),
        asked.general(view),
        view.device,
        asked.dtype_of(view),
        view.policy,
    )


def build(inputs: EvaluationInputs, hands: Hands, attempt: Attempt) -> dict[str, Any]:
    weights, folder = hands.payload(inputs.fine_tuned_model), hands.base_folder(inputs.base_model)
    question = ModelQuestions(folder, weights, inputs.device, inputs.dtype, inputs.task, inputs.general)
    figures = hands.run("evaluation", attempt, lambda output: question.request(hands, output))
    before = hands.payload(inputs.base_evaluation)
    verdict = verdict_on(inputs.spec, before, attempt.payload, hands.declared_in)
    text = json.dumps(verdict.to_json(), indent=1, sort_keys=True)
    (attempt.payload / VERDICT).write_text(text, "utf-8")
    policy = inputs.policy
    (attempt.evidence / POLICY).write_text(policy.model_dump_json(indent=1), "utf-8")
    judged = replace(verdict, policy=policy.digest).to_json()
    return {**figures, "scores": scores_in(attempt.payload), "verdict": judged}


def verdict_on(spec: VariantSpec, before: Path, payload: Path, declared_in: Path) -> Verdict:
    """Judge a tuned model's stored samples against its base's (`before`), by the declared gates."""
    base, tuned = read_samples(before), read_samples(payload)
    return judge(base, tuned, spec.gates, objective=spec.objective, declared_in=declared_in)


def checks(workspace: Workspace, artifact: Artifact) -> list[Check]:
    verdict = Verdict.from_json(artifact.figures["verdict"])
    difference = artifact.figures["tuned_logit_difference"]
    said = verdict.failures or "every rule of the gate holds"
    return [
        Check("gate", verdict.passed, said),
        Check("weights_act", difference > 0, f"largest logit difference {difference:.3g}"),
    ]


def refuse_evaluation(workspace: Workspace) -> None:
    """Raises UserError where the frozen declaration passes below the floors of today's policy."""
    refuse_frozen(workspace)


STAGE = Stage(
    "evaluation",
    reads=(*asked.READS, "fine_tuned_model", "base_evaluation"),
    fields=(*asked.FIELDS, *JUDGED),
    inputs=inputs,
    build=build,
    checks={
        "gate": "The task got better, and a fall of general ability beyond the margins is ruled out",
        "weights_act": "The training changed the base's logits",
    },
    judge=checks,
    refuse=refuse_evaluation,
    programs=("evaluation",),
)
