"""Counts what is not asked, since a release beneath was trained on it."""

from __future__ import annotations

from ft_dagster.data.files.parquet import quoted, rows_of
from ft_dagster.data.mixture.asked_before import OWN, TASKS, TEXTS
from ft_dagster.lineage.graph import made_in
from ft_dagster.models.derived import started_from
from ft_dagster.report.sentences.ancestors import ancestor_name
from ft_dagster.stage_entries import ANCESTOR_OVERLAP, BASE_MODEL
from ft_dagster.store import Artifact
from ft_dagster.workspace.policy import LeftOut
from ft_dagster.workspace.questions import LEFT_TESTS, LEFT_TEXTS
from ft_dagster.workspace.workspace import Workspace


def overlap_found(workspace: Workspace) -> Artifact | None:
    """Return what of the questions the ancestors were trained on, as it was looked for last; a run looks
    before it trains. None of a variant that starts from no release, and before the first search.
    """
    base = workspace.head(BASE_MODEL.name)
    if base is None or not started_from(base):
        return None
    made_of = {BASE_MODEL.name: base.digest}
    found = made_in(workspace.store, workspace.prefix, ANCESTOR_OVERLAP.name, made_of)
    return max(found, key=lambda each: str(each.predicate["created"]), default=None)


def left_out_by(workspace: Workspace, overlap: Artifact | None) -> LeftOut:
    """Count what an overlap leaves out of what is asked."""
    if overlap is None:
        return LeftOut()
    found, payload = overlap.figures, workspace.payload(overlap)
    left, texts, tests = found["left_out"], payload / LEFT_TEXTS, payload / LEFT_TESTS
    documents = (
        {group for batch in rows_of(texts, quoted("group")) for (group,) in batch} if texts.exists() else None
    )
    by = [ancestor_name(each) for each in found["ancestors"] if each[OWN] or each[TEXTS] or each[TASKS]]
    return LeftOut(
        left[OWN],
        {task: each["left_out"] for task, each in found["tasks"].items()},
        None if documents is None else len(documents),
        tests if tests.exists() else None,
        ", ".join(by),
    )
