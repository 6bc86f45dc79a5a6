"""A version of the variant, recorded only if the gate held for exactly these bytes.

The last step, and no stage: it makes no artifact, it appends to the variant's release log.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ft_dagster.errors import UserError
from ft_dagster.evaluation.own_checks import by_any_name
from ft_dagster.gate.gates import gates_digest, with_rules
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.graph import StoredGraph, input_of
from ft_dagster.lineage.release import (
    JUDGED_AGAIN,
    ReleaseCandidate,
    ReleaseRequest,
    history,
    record_release,
    rolled_back,
    standing_release,
)
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.models.derived import base_folder
from ft_dagster.stage_entries import (
    BASE_EVALUATION,
    BASE_MODEL,
    FINE_TUNED_MODEL,
    MODEL_EXPORT,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
)
from ft_dagster.stages import evaluation as evaluation_stage
from ft_dagster.stages.declared_now import today
from ft_dagster.stages.evaluation import own_of
from ft_dagster.stages.held_out import refuse_trained_on
from ft_dagster.stages.may_serve import Version, may_serve
from ft_dagster.stages.unsaid_tokens import refuse_said_tokens
from ft_dagster.stages.verdicts import Held, against_production, certificate_of, own_verdict, rejudge
from ft_dagster.store import Artifact
from ft_dagster.workspace.policy import refuse_frozen
from ft_dagster.workspace.questions import own_checks
from ft_dagster.workspace.workspace import Workspace, refuse_experiment


@dataclass(frozen=True)
class Released:
    """`entry`: of the release log. `history`: the log after it. `next`: what is to be done for it to be
    served; empty where it is.
    """

    entry: ReleaseEntry
    history: list[ReleaseEntry]
    verdict: Verdict
    export: Artifact
    next: str


def release(workspace: Workspace) -> Released:
    """Append the newest export to the log; the standing entry where it is there already.

    Judged by today's declaration, whatever was frozen. Raises UserError; in a workspace that only looks also
    where the log would change.
    """
    refuse_experiment(workspace)
    desk = today(workspace)
    policy, store, spec = refuse_frozen(desk), desk.store, desk.spec
    export, tuned = desk.upstream(MODEL_EXPORT.name), desk.upstream(FINE_TUNED_MODEL.name)
    evaluation = desk.find(evaluation_stage.STAGE)
    refuse_trained_on(desk)
    refuse_said_tokens(desk, desk.upstream(TRAINING_MIXTURE.name))
    desk.verify(export)
    verdict = rejudge(desk.context, spec, tuned, evaluation, desk.upstream(BASE_EVALUATION.name))
    check_base(desk, export)
    certificate = certificate_of(desk, export)
    doubt = may_serve(desk.settings, desk.key, _version(desk, tuned, certificate.format))
    held = against_production(desk, tuned, evaluation) if verdict.passed else Held(())
    own = by_any_name(own_of(evaluation), own_checks(desk.context, spec.evaluation))
    verdict = replace(with_rules(verdict, held.rules, spec.gates, own), policy=policy.digest)
    record = standing_release if desk.looking else record_release
    entry = record(
        store,
        desk.prefix,
        ReleaseCandidate(
            export,
            evaluation,
            verdict,
            gates_digest(spec.gates),
            certificate,
            own_verdict(desk, export, evaluation),
            held.unmeasured,
            held.log,
        ),
        ReleaseRequest(desk.run.reason, approvers=policy.approvers_of(spec), doubt=doubt),
        variant=str(desk.key),
        run_id=desk.run.id,
    )
    past = history(store, desk.prefix)
    following = _next(desk, entry, past, policy.approvers_of(spec), doubt)
    return Released(entry, past, verdict, export, following)


def check_base(workspace: Workspace, export: Artifact) -> None:
    """Hash the files of the base that an export stands on; where one only looks, those touched since then.
    Raises UserError where one is not what it was.
    """
    base = workspace.upstream(BASE_MODEL.name)
    if export.inputs[BASE_MODEL.name] != base.digest:
        raise UserError(
            f"the export was made on another base than {base.digest[:12]}",
            value=export.inputs[BASE_MODEL.name][:12],
            fix=JUDGED_AGAIN,
        )
    base_folder(workspace.store, base, workspace.project, workspace.cache, verify=not workspace.looking)


def _version(workspace: Workspace, tuned: Artifact, format: str) -> Version:
    """What is to be served, judged by today's declaration."""
    found = {
        BASE_MODEL.name: workspace.upstream(BASE_MODEL.name),
        TRAINING_PLAN.name: input_of(StoredGraph(workspace.store), tuned, TRAINING_PLAN.name),
    }
    made_of = {stage: artifact for stage, artifact in found.items() if artifact is not None}
    return Version(f"the new version of {workspace.key}", workspace.spec, made_of, format)


def _next(
    workspace: Workspace,
    entry: ReleaseEntry,
    past: list[ReleaseEntry],
    approvers: tuple[str, ...],
    doubt: str | None,
) -> str:
    """What is to be done for this version to be served; empty where it is."""
    version, gone, key = entry.version, rolled_back(past), workspace.key
    if version in gone:
        return (
            f"version {version} was rolled back ({gone[version]}): it stays so; "
            f"`ft-dagster release {key} --version {version} --force --reason ...` puts it back"
        )
    if past[-1].production != version:
        who = " or ".join(approvers) or "anyone"
        why = f" ({entry.unmeasured or doubt})" if entry.unmeasured or doubt else ""
        return f"version {version} waits for {who}{why}: `ft-dagster release {key} --version {version}`"
    return ""
