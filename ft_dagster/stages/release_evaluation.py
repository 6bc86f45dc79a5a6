"""Judges the new version against the one in production and the reference, before it is released.

It asks a model only where stored answers do not decide: a version before, where that was asked other
questions than the new one (`production_evaluation`), and the new one on more of them, where questions are
asked batch after batch (`candidate_evaluation`). Their answers are kept. The verdict is not, since production
is another one tomorrow: `release` derives it again from stored answers. Nothing is judged where there is no
version before, these weights are in production, or versions are not compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ft_dagster.evaluation.own_checks import by_any_name
from ft_dagster.gate.gates import with_rules
from ft_dagster.gate.verdict_words import verdict_sentence, versions_sentence
from ft_dagster.lineage.certificate import Certificate
from ft_dagster.lineage.graph import StoredGraph, input_of
from ft_dagster.lineage.serving import APPROVED, refuse
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.report.sentences.next_step import REGRESSION
from ft_dagster.spec.policy import Policy
from ft_dagster.stage_entries import (
    BASE_EVALUATION,
    BASE_MODEL,
    FINE_TUNED_MODEL,
    MODEL_EXPORT,
    RELEASE_EVALUATION,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
)
from ft_dagster.stages import evaluation as evaluation_stage
from ft_dagster.stages.asking.train_test_overlap import refuse_trained_on
from ft_dagster.stages.evaluation import own_of
from ft_dagster.stages.judging.declared_now import DeclaredWorkspace, declared_workspace
from ft_dagster.stages.judging.may_serve import Today, Version, may_serve
from ft_dagster.stages.judging.opponents import Held, against_versions, opponents
from ft_dagster.stages.judging.verdicts import certificate_of, rejudge
from ft_dagster.stages.unsaid_tokens import refuse_said_tokens
from ft_dagster.store import Artifact
from ft_dagster.workspace.policy import refuse_frozen
from ft_dagster.workspace.questions import own_checks
from ft_dagster.workspace.stage import Check, Step
from ft_dagster.workspace.workspace import Workspace, refuse_experiment

CHECK = REGRESSION  # as the rule against production is named
STEP = Step(
    RELEASE_EVALUATION,
    reads=(MODEL_EXPORT,),
    checks={CHECK: "A fall against production, and since the reference, beyond the margins is ruled out"},
)


@dataclass(frozen=True)
class Judgement:
    """Holds all that a release is decided by. `version`: what is to be served. `held`: against the versions
    before, if the gate holds; its rules stand in the verdict.
    """

    policy: Policy
    export: Artifact
    evaluation: Artifact
    verdict: Verdict
    certificate: Certificate
    version: Version
    held: Held


@dataclass(frozen=True)
class ReleaseEvaluation:
    """Says what was judged for a release. `judgement`: None where there is no version to be held against."""

    export: Artifact
    held: Held
    judgement: Judgement | None = None

    @property
    def check(self) -> Check:
        if self.judgement is None:
            return Check(CHECK, True, f"Nothing to compare: {self.held.against.why_none}")
        verdict, held = self.judgement.verdict, self.held
        against = ". ".join(filter(None, (held.unmeasured, versions_sentence(verdict))))
        said = ": ".join(filter(None, (against or verdict_sentence(verdict), verdict.failures)))
        outcomes = [rule.outcome for rule in held.rules]
        figures = {name: outcomes.count(name) for name in ("pass", "undecided", "fail")}
        return Check(CHECK, verdict.passed, said, figures)


def judge_release(workspace: Workspace) -> ReleaseEvaluation:
    """Make what a release of the newest export needs judged, as today's declaration demands. Raises UserError
    for all that keeps `release` from it already, before a model is asked.
    """
    refuse_experiment(workspace)
    declared = declared_workspace(workspace, makes=True)
    export, tuned = declared.upstream(MODEL_EXPORT.name), declared.upstream(FINE_TUNED_MODEL.name)
    held = opponents(declared, tuned)
    if held.nothing:
        refuse_said_tokens(declared, declared.upstream(TRAINING_MIXTURE.name))
        return ReleaseEvaluation(export, held)
    found = judgement(declared)
    return ReleaseEvaluation(export, found.held, found)


def judgement(declared: DeclaredWorkspace) -> Judgement:
    """Derive the verdict on the newest weights from stored answers, also of versions before. Raises UserError
    for what may not be served, or is not there.
    """
    policy, spec = refuse_frozen(declared), declared.spec
    export, tuned = declared.upstream(MODEL_EXPORT.name), declared.upstream(FINE_TUNED_MODEL.name)
    evaluation = declared.find(evaluation_stage.STAGE)
    refuse_trained_on(declared)
    refuse_said_tokens(declared, declared.upstream(TRAINING_MIXTURE.name))
    verdict = rejudge(declared.context, spec, tuned, evaluation, declared.upstream(BASE_EVALUATION.name))
    certificate = certificate_of(declared, export)
    version = _version(declared, tuned, certificate.format)
    found = may_serve(version, Today.of(declared.settings, declared.key))
    refuse(each for each in found if each.rule not in APPROVED)
    held = against_versions(declared, tuned, evaluation) if verdict.passed else opponents(declared, tuned)
    own = by_any_name(own_of(evaluation), own_checks(declared.context, spec.evaluation))
    verdict = replace(with_rules(verdict, held.rules, spec.gates, own), policy=policy.digest)
    return Judgement(policy, export, evaluation, verdict, certificate, version, held)


def _version(workspace: Workspace, tuned: Artifact, format: str) -> Version:
    """Return what is to be served, judged by today's declaration."""
    found = {
        BASE_MODEL.name: workspace.upstream(BASE_MODEL.name),
        TRAINING_PLAN.name: input_of(StoredGraph(workspace.store), tuned, TRAINING_PLAN.name),
    }
    made_of = {stage: artifact for stage, artifact in found.items() if artifact is not None}
    return Version(f"the new version of {workspace.key}", workspace.spec, made_of, format)
