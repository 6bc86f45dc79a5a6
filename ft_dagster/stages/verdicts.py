"""Verdicts derived again from the stored samples: what was said earlier about weights is not trusted."""

from __future__ import annotations

from ft_dagster.errors import UserError
from ft_dagster.evaluation.gates import gates_digest, regression
from ft_dagster.evaluation.samples import read_samples
from ft_dagster.lineage.ancestors import find_digest
from ft_dagster.lineage.certificate import Certificate
from ft_dagster.lineage.release import production
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.stages.evaluation import verdict_on
from ft_dagster.stages.workspace import Desk, Workspace
from ft_dagster.store import Artifact, verify_artifact

OWN = "own_evaluation"  # beside the certificate of a merge that drifted from what was judged


def rejudge(desk: Desk, tuned: Artifact) -> tuple[Artifact, Verdict]:
    """The recorded evaluation of exactly these weights, its bytes verified, and its verdict derived again."""
    evaluation = desk.upstream("evaluation")
    if evaluation.inputs["fine_tuned_model"] != tuned.digest:
        raise UserError(
            f"the newest evaluation judged other weights than {tuned.digest[:12]}",
            fix="Materialize evaluation again",
        )
    if evaluation.inputs["gates"] != gates_digest(desk.spec.gates):
        raise UserError("the gates changed after the evaluation", fix="Materialize evaluation again")
    before = desk.upstream("base_evaluation")
    if evaluation.inputs["base_evaluation"] != before.digest:
        raise UserError("the base's scores changed after the evaluation", fix="Materialize evaluation again")
    for artifact in (tuned, evaluation, before):
        verify_artifact(desk.store, artifact, desk.cache)
    return evaluation, verdict_on(desk.spec, desk.payload(before), desk.payload(evaluation), desk.declared_in)


def against_production(workspace: Workspace, tuned: Artifact, evaluation: Artifact) -> tuple[Rule, ...]:
    """The rules by which new weights are no regression against the version in production; none at the first.

    Derived here and kept in no key: production is another one tomorrow. The release log names the version
    before, and so from which evaluations the rules can be derived again.
    """
    gates = workspace.spec.gates
    standing = production(workspace.store, workspace.prefix)
    if standing is None or standing.weights == tuned.digest or gates.regression_margin is None:
        return ()
    before = find_digest(workspace.store, [workspace.prefix], "evaluation", standing.evaluation)
    if before is None:
        raise UserError(
            f"the evaluation of version {standing.version}, which is in production, is not in the store",
            field="gates.regression_margin",
            value=gates.regression_margin,
            fix="Restore it, or declare gates.regression_margin: null to release without a comparison",
        )
    verify_artifact(workspace.store, before, workspace.cache)
    old, new = (read_samples(workspace.payload(each)) for each in (before, evaluation))
    return regression(old, new, gates, version=standing.version)


def own_verdict(workspace: Workspace, export: Artifact) -> Verdict | None:
    """Of an export that was evaluated by itself, derived again from its samples; None for others."""
    folder = workspace.evidence(export) / OWN / "payload"
    if not folder.is_dir():
        return None
    before = workspace.payload(workspace.upstream("base_evaluation"))
    return verdict_on(workspace.spec, before, folder, workspace.declared_in)


def certificate_of(workspace: Workspace, export: Artifact) -> Certificate:
    """That of an export. Raises UserError where certificate.json is none."""
    return Certificate.read(workspace.evidence(export) / "certificate.json")
