"""Leaves out of what is asked what an ancestor was trained on, and refuses where too little is left or too
little could be looked through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ft_dagster.data.mixture.asked_before import OWN, TASKS, TEXTS
from ft_dagster.errors import UserError
from ft_dagster.models.derived import started_from
from ft_dagster.report.sentences.ancestors import FIGURE, ancestor_name, first_not_searched
from ft_dagster.spec.policy import POLICY_FILE, Policies
from ft_dagster.stage_entries import BASE_MODEL
from ft_dagster.stages import ancestor_overlap
from ft_dagster.store import Artifact
from ft_dagster.workspace import policy, questions
from ft_dagster.workspace.input_view import View
from ft_dagster.workspace.keyed_inputs import UNKNOWN
from ft_dagster.workspace.left_out import left_out_by
from ft_dagster.workspace.policy import LeftOut
from ft_dagster.workspace.workspace import Workspace

RULE = "evaluation.ancestors"
HELD_OUT = (
    (OWN, "own test rows", "data.sources"),
    (TEXTS, "held-out general texts", "data.general"),
)


def overlap_of(view: View) -> Artifact | None:
    """Return what was found of the questions in the ancestors; None of a variant that starts from no
    release.
    """
    parent = view.by_bytes(lambda: started_from(view.upstream(BASE_MODEL.name)))
    return view.made(ancestor_overlap.STAGE) if parent and parent is not UNKNOWN else None


def own_task(view: View) -> questions.OwnTask:
    """Return the own task as it is asked, see `questions.own_task`."""
    return questions.own_task(view, overlap_of(view))


def general(view: View) -> questions.General:
    """Return what is general of what is asked, see `questions.general`."""
    return questions.general(view, overlap_of(view))


def overlap_now(workspace: Workspace) -> Artifact | None:
    """Return the same for a workspace, made where it must be."""
    return (
        workspace.make(ancestor_overlap.STAGE) if started_from(workspace.upstream(BASE_MODEL.name)) else None
    )


def left_out_of(workspace: Workspace) -> LeftOut:
    """Count what is not asked, since an ancestor was trained on it."""
    return left_out_by(workspace, overlap_now(workspace))


def refuse_few_questions(workspace: Workspace) -> None:
    """Raises UserError for gates that the questions which are left cannot decide."""
    policy.refuse_few_questions(workspace, left_out_of(workspace))


def refuse_successor(workspace: Workspace) -> None:
    """Raises UserError where they are too few to hold what is trained next against production."""
    policy.refuse_successor(workspace, left_out_of(workspace))


def refuse_asked_of_ancestors(workspace: Workspace) -> None:
    """Raises UserError where an ancestor was trained on all of what a rule asks, or where today's policy
    demands that each is looked through, and the rows of one are gone.
    """
    overlap = overlap_now(workspace)
    if overlap is None:
        return
    found = overlap.figures
    _refuse_nothing_left(workspace, found)
    policies, tenant = workspace.settings.policies(), workspace.key.tenant
    unsearched = unsearched_today(policies, tenant, found["ancestors"])
    if unsearched:
        raise UserError(
            unsearched,
            file=workspace.declared_in,
            field="base_model.variant",
            value=str(workspace.spec.base_model.variant),
            fix="Restore those rows from a backup, start from another release, or let the platform set "
            f"{RULE} to optional in {POLICY_FILE}",
        )


def unsearched_today(policies: Policies, tenant: str, ancestors: Sequence[Mapping[str, Any]]) -> str:
    """Say what was not looked through that today's policy demands, see `refuse_asked_of_ancestors`; "" where
    all was, or it demands nothing. `ancestors`: as an overlap tells them.
    """
    missing = first_not_searched(ancestors)
    if not missing or policies.of(tenant).evaluation.ancestors != "searched":
        return ""
    return _demanded(policies, tenant, f"and {missing}")


def unsearched_version(policies: Policies, tenant: str, base: Artifact, judged: Artifact) -> str:
    """Say the same of a version on this base, by the evaluation that it was judged by. One that is older than
    the search was asked what nobody looked for.
    """
    if policies.of(tenant).evaluation.ancestors != "searched" or not started_from(base):
        return ""
    if FIGURE not in judged.figures:
        return _demanded(policies, tenant, "and its evaluation is older than that search")
    return unsearched_today(policies, tenant, judged.figures[FIGURE])


def _demanded(policies: Policies, tenant: str, but: str) -> str:
    return (
        "not as the policy demands: all that ancestors were trained on is looked through for what is asked "
        f"({policies.set_by(tenant, RULE)}), {but}"
    )


def _refuse_nothing_left(workspace: Workspace, found: Mapping[str, Any]) -> None:
    """Raises UserError where nothing is left of what a rule asks."""
    asked, left_out = found["asked"], found["left_out"]
    kinds = (
        *((kind, said, field, asked[kind], left_out[kind]) for kind, said, field in HELD_OUT),
        *(
            (TASKS, f"questions of {task}", "evaluation", each["asked"], each["left_out"])
            for task, each in found["tasks"].items()
        ),
    )
    for kind, said, field, all_of_them, gone in kinds:
        if all_of_them and gone == all_of_them:
            by = ", ".join(ancestor_name(each) for each in found["ancestors"] if each[kind])
            raise UserError(
                f"all {all_of_them:,} {said} are in what {by} was trained on, from which this variant "
                "starts: nothing that is asked would be new to it",
                file=workspace.declared_in,
                field=field,
                fix="Add rows or questions that no ancestor was trained on, or start from another release",
            )
