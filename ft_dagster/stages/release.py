"""A version of the variant, recorded only if the gate held for exactly these bytes.

The last step, and no stage: it makes no artifact, it appends to the variant's release log.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ft_dagster.data.derived import base_folder
from ft_dagster.errors import UserError
from ft_dagster.evaluation.gates import gates_digest, with_rules
from ft_dagster.lineage.entry import ReleaseEntry
from ft_dagster.lineage.release import (
    JUDGED_AGAIN,
    ReleaseCandidate,
    ReleaseRequest,
    history,
    record_release,
    rolled_back,
)
from ft_dagster.lineage.verdict import Verdict
from ft_dagster.stages.policy import refuse_frozen
from ft_dagster.stages.verdicts import against_production, certificate_of, own_verdict, rejudge
from ft_dagster.stages.workspace import Workspace, refuse_experiment
from ft_dagster.store import Artifact, verify_artifact

NAME = "release"


@dataclass(frozen=True)
class Released:
    """`entry`: of the release log. `history`: the log after it. `next`: what is to be done, if anything."""

    entry: ReleaseEntry
    history: list[ReleaseEntry]
    verdict: Verdict
    export: Artifact
    next: str


def release(workspace: Workspace) -> Released:
    """Append the newest export to the log; the standing entry where it is there already. Raises UserError."""
    refuse_experiment(workspace)
    policy = refuse_frozen(workspace)
    store, prefix, spec = workspace.store, workspace.prefix, workspace.spec
    export, tuned = workspace.upstream("model_export"), workspace.upstream("fine_tuned_model")
    verify_artifact(store, export, workspace.cache)
    evaluation, verdict = rejudge(workspace, tuned)
    check_base(workspace, export)
    verdict = with_rules(verdict, against_production(workspace, tuned, evaluation), spec.gates)
    verdict = replace(verdict, policy=policy.digest)
    own = own_verdict(workspace, export)
    entry = record_release(
        store,
        prefix,
        ReleaseCandidate(
            export,
            evaluation,
            verdict,
            gates_digest(spec.gates),
            certificate_of(workspace, export),
            own,
        ),
        ReleaseRequest(workspace.run.reason, approvers=policy.approvers_of(spec)),
        variant=str(workspace.key),
        run_id=workspace.run.id,
    )
    past = history(store, prefix)
    following = _next(workspace, entry, past, policy.approvers_of(spec))
    return Released(entry, past, verdict, export, following)


def check_base(workspace: Workspace, export: Artifact) -> None:
    """Hash the files of the base that an export stands on. Raises UserError where one is not what it was."""
    base = workspace.upstream("base_model")
    if export.inputs["base_model"] != base.digest:
        raise UserError(
            f"the export was made on another base than {base.digest[:12]}",
            value=export.inputs["base_model"][:12],
            fix=JUDGED_AGAIN,
        )
    base_folder(workspace.store, base, workspace.project, workspace.cache, verify=True)


def _next(
    workspace: Workspace, entry: ReleaseEntry, past: list[ReleaseEntry], approvers: tuple[str, ...]
) -> str:
    """What is to be done for this version to be served, if anything."""
    version, gone, key = entry.version, rolled_back(past), workspace.key
    if version in gone:
        return (
            f"version {version} was rolled back ({gone[version]}): it stays so; "
            f"`ft-dagster release {key} --version {version} --force --reason ...` puts it back"
        )
    if past[-1].production != version:
        who = " or ".join(approvers) or "anyone"
        return f"version {version} waits for {who}: `ft-dagster release {key} --version {version}`"
    return f"version {version} is in production"
