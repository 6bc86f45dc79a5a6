"""Gives a plan the base with examples in its prompt: what stands of it, and asking it before any run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ft_dagster.errors import UserError
from ft_dagster.gate.prompted import Prompted, prompted_sentences
from ft_dagster.lineage.reachable import AHEAD
from ft_dagster.settings import Settings
from ft_dagster.spec import Declared, VariantKey
from ft_dagster.stage_entries import BASE_MODEL, EVALUATION, TASK_DATASET
from ft_dagster.stages import prompted_base
from ft_dagster.stages.chain import failed_check, up_to
from ft_dagster.store import Artifact
from ft_dagster.store.make import host_lock
from ft_dagster.versions.look import FoundNow
from ft_dagster.versions.now import difference
from ft_dagster.versions.version_artifacts import newest_artifacts
from ft_dagster.workspace.past import answers_with_examples
from ft_dagster.workspace.workspace import RunOf, Trial, Workspace


def ask_base(settings: Settings, key: VariantKey, run: RunOf) -> None:
    """Ask the base with examples in its prompt on validation rows, and where a model of the same rows was
    judged, on test rows too. What was asked before is not asked again.

    The data set is made for it as a run would make it. Its heads are apart, so that a run which goes on
    meanwhile meets no other declaration. Raises UserError, also where there is nothing to ask, and
    ProgramFailed.
    """
    workspace = Workspace(settings, key, run)
    ahead = replace(workspace, trial=Trial(AHEAD, workspace.declared()))
    with host_lock(settings.work_folder, f"{AHEAD} {key}"):
        for stage in up_to(TASK_DATASET.name):
            made = ahead.make(stage)
            if (failed := failed_check(ahead, stage, made)) is not None:
                raise UserError(
                    f"{stage.name}: {failed.name} did not pass: {failed.sentence}",
                    file=workspace.declared_in,
                    fix="Mend the rows, then ask again",
                )
        dataset, judged = ahead.upstream(TASK_DATASET.name), workspace.head(EVALUATION.name)
        why = prompted_base.why_not(ahead.spec, dataset)
        if why is not None:
            raise UserError(
                f"the base is not asked with examples: {why}",
                file=workspace.declared_in,
                field="--ask-base",
                fix="Leave it out",
            )
        ahead.make(prompted_base.STAGE)
        rows = workspace.head(TASK_DATASET.name)
        if judged is not None and rows is not None and rows.digest == dataset.digest:
            ahead.make(prompted_base.ON_TEST)


def stands_of_base(workspace: Workspace, declared: Declared, now: FoundNow) -> list[str]:
    """Return what the base reached with examples of the rows as they are declared now; none where it was not
    asked.

    `workspace`: as a run would have it that began now. Of the heads of runs, and of those made ahead of one.
    """
    for heads in (workspace.prefix, f"{workspace.prefix}/experiments/{AHEAD}"):
        made = list(_newest(workspace, declared, now, heads))
        if len(made) == 2:
            found = answers_with_examples(workspace.store, workspace.prefix, *made)
            if found:
                goal = declared.spec.evaluation.goal
                asked = (Prompted.from_json(each.figures) for each in found)
                return [line for each in asked for line in prompted_sentences(each, goal)]
    return []


def _newest(workspace: Workspace, declared: Declared, now: FoundNow, heads: str) -> Iterator[Artifact]:
    """Return the newest base and data set below these heads, each where it is that of the declaration."""
    for stage in (BASE_MODEL.name, TASK_DATASET.name):
        version = newest_artifacts(workspace.store, heads, stage)
        causes = difference(workspace, declared, version, now, exact=True) if version.artifacts else ()
        other = any(cause.kind in ("field", "source", "task", "stage") for cause in causes)
        if stage in version.artifacts and not other:
            yield version.artifacts[stage]
