"""Records a version of the variant only if the gate held for exactly these bytes.

The last step, and no stage: it makes no artifact, it appends to the variant's release log. It asks no model:
what it needs judged was made by `release_evaluation`, and where something of it is missing it refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ft_dagster.errors import UserError
from ft_dagster.gate.gates import gates_digest
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.release import (
    JUDGED_AGAIN,
    ReleaseCandidate,
    ReleaseRequest,
    history,
    record_release,
    standing_release,
)
from ft_dagster.lineage.serving import Finding, refuse
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.lineage.version_status import VersionStatus, status_of
from ft_dagster.models.derived import base_folder
from ft_dagster.report.sentences.next_step import Result, next_step
from ft_dagster.spec.policy import POLICY_FILE
from ft_dagster.stage_entries import BASE_MODEL, RELEASE, RELEASE_EVALUATION
from ft_dagster.stages.judging.declared_now import declared_workspace
from ft_dagster.stages.judging.may_serve import Today, findings_in, may_serve
from ft_dagster.stages.judging.verdicts import own_verdict
from ft_dagster.stages.release_evaluation import Judgement, judgement
from ft_dagster.store import Artifact
from ft_dagster.workspace.stage import Step
from ft_dagster.workspace.workspace import Workspace, refuse_experiment

STEP = Step(RELEASE, reads=(RELEASE_EVALUATION,))


@dataclass(frozen=True)
class Released:
    """Reports a release. `entry`: of the release log. `history`: the log after it. `status`: of the version;
    `unserved`: why it may not be served. `next`: what a person does next.
    """

    entry: ReleaseEntry
    history: list[ReleaseEntry]
    verdict: Verdict
    export: Artifact
    status: VersionStatus
    unserved: tuple[Finding, ...]
    next: str


def release(workspace: Workspace) -> Released:
    """Append the newest export to the log; the standing entry where it is there already.

    Judged by today's declaration, whatever was frozen. Raises UserError; in a workspace that only looks also
    where the log would change.
    """
    refuse_experiment(workspace)
    declared = declared_workspace(workspace)
    found, store = judgement(declared), declared.store
    export, approvers = found.export, found.policy.approvers_of(declared.spec)
    declared.verify(export)
    check_base(declared, export)
    request = _asked_now(declared, found, approvers)
    record = standing_release if declared.looking else record_release
    entry = record(
        store,
        declared.prefix,
        ReleaseCandidate(
            export,
            found.evaluation,
            found.verdict,
            gates_digest(declared.spec.gates),
            found.certificate,
            own_verdict(declared, export, found.evaluation),
            found.held.unmeasured,
            found.held.against.log,
        ),
        request,
        variant=str(declared.key),
        run_id=declared.run.id,
    )
    past = history(store, declared.prefix)
    status, today = status_of(past, entry), Today.of(declared.settings, declared.key)
    unserved = findings_in(today, past, entry)
    if status.is_served and today.refuses and not declared.looking:
        refuse(unserved)
    limit = declared.spec.evaluation.limit
    result = Result(str(declared.key), found.verdict, limit, status, approvers, unserved)
    return Released(entry, past, found.verdict, export, status, unserved, next_step(result))


def _asked_now(workspace: Workspace, found: Judgement, approvers: tuple[str, ...]) -> ReleaseRequest:
    """Return a request that asks what keeps a judgement's version from being served, by then: to hash what is
    released takes minutes, in which a parent may be rolled back. It raises UserError where the policy is
    another one.
    """

    def asks(past: Sequence[ReleaseEntry], entry: ReleaseEntry) -> Sequence[Finding]:
        today = Today.of(workspace.settings, workspace.key)
        if today.policies.of(workspace.key.tenant).digest != found.policy.digest:
            raise UserError(
                "the policy changed meanwhile: it was judged by the one before",
                file=workspace.project / POLICY_FILE,
                fix="Materialize release_evaluation and release again",
            )
        return may_serve(found.version, today)

    return ReleaseRequest(workspace.run.reason, approvers=approvers, asks=asks)


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
