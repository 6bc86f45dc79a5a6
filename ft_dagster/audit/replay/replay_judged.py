"""Ask the weights of a replay again, and export them again: what was made of the weights that were recorded.

Where the weights came out as others, evaluation and export are made of the recorded ones, so that each is
held against what it was made of. What cannot be made again here says why, and the verdict is that of the
rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ft_dagster.audit.answers import DIVERGED, EQUIVALENT, EXACT, ReplayAnswer, StageReplayed
from ft_dagster.audit.audit import Audit
from ft_dagster.audit.figures import read
from ft_dagster.audit.index.index import Indexed
from ft_dagster.audit.replay.kept_code import environment_differences
from ft_dagster.audit.replay.recipe import JUDGED, CleanProject, ModelRecipe, judged_by
from ft_dagster.errors import UserError
from ft_dagster.launch.leases import of_host
from ft_dagster.lineage.graph import needed
from ft_dagster.settings import load_settings
from ft_dagster.stage_entries import ANSWERS_OF, BASE_EVALUATION, EVALUATION, GENERAL_SCORES, MODEL_EXPORT
from ft_dagster.stages.evaluation import VERDICT
from ft_dagster.store import Artifact

CLOSE = 0.01  # of a recorded loss, or of a score, by which an equivalent one may differ
SAME, NOT_MADE = "the same", "not made again"
FIRST = 3  # files that differ and are named
ALIKE = {
    EVALUATION.name: "of the same verdict and near scores",
    MODEL_EXPORT.name: "and behaves as the judged weights",
}
WORSE = (EXACT, EQUIVALENT, DIVERGED)
Make = Callable[[str], Artifact]


def judge_again(
    audit: Audit, recorded: ModelRecipe, project: CleanProject, answer: ReplayAnswer, make: Make
) -> ReplayAnswer:
    """Return the answer of a training, with the stages that were made of its weights. `make`: makes a stage
    by its name, by the code that made it; raises UserError.
    """
    why = _lay_out(audit, recorded, project, answer)
    for stage in JUDGED:
        part = recorded.judged.get(stage)
        if part is None:
            continue
        answer = (
            _again(audit, part, project, answer, make) if why is None else _not_made(audit, part, answer, why)
        )
    return answer


def _lay_out(audit: Audit, recorded: ModelRecipe, project: CleanProject, answer: ReplayAnswer) -> str | None:
    """Bring what they are made of; why that cannot be, None where it was."""
    judged = recorded.judged.get(EVALUATION.name)
    if judged is None:
        return None
    device, here = audit.artifact(judged).spec.get("device"), device_of(project)
    if device != here:
        return f"it was asked on {device}, and this host has {here} alone"
    try:
        declared, content = judged_by(audit, judged)
        before = needed(audit.index, judged, BASE_EVALUATION.name)
        project.point_at(project.take(audit, before))
        project.take(audit, needed(audit.index, before, GENERAL_SCORES.name))
        project.point_at(project.take(audit, declared))
        project.declare(recorded.variant, content)
        project.take_tries(audit, recorded.model)
        project.take_log(audit, recorded.model.place.prefix, judged)
        if answer.verdict != EXACT:
            project.point_at(project.take(audit, recorded.model))
    except UserError as error:
        return error.problem
    return None


def device_of(project: CleanProject) -> str:
    """Return torch's name for what this host computes on, as the project lends it."""
    return "cuda" if of_host(load_settings(project.folder).host).inventory.kind == "gpu" else "cpu"


def _not_made(audit: Audit, part: Indexed, answer: ReplayAnswer, why: str) -> ReplayAnswer:
    stage = StageReplayed(part.place.stage, part.digest, "", code_of(audit, part), f"{NOT_MADE}: {why}")
    said = f"{answer.said}; {part.place.stage} was not made again"
    return replace(answer, stages=(*answer.stages, stage), said=said)


def _again(
    audit: Audit, part: Indexed, project: CleanProject, answer: ReplayAnswer, make: Make
) -> ReplayAnswer:
    then, name = read(audit, part), part.place.stage
    try:
        made = make(name)
    except UserError as error:
        _stand_in(audit, part, project)
        return _not_made(audit, part, answer, error.problem)
    same = made.digest == part.digest or same_answers(then, made)
    said = SAME if same else other_files(then, made)
    stage = StageReplayed(name, part.digest, made.digest, code_of(audit, part), said)
    answer = replace(answer, stages=(*answer.stages, stage))
    if same:
        return replace(answer, said=f"{answer.said}; {name} is the recorded one")
    _stand_in(audit, part, project)
    differs = environment_differences(then.predicate["environment"], made.predicate["environment"])
    figures = _scores(then, made) if name == EVALUATION.name else {}
    alike = _judged_alike(then, made, figures) if name == EVALUATION.name else made.figures.get("certified")
    answer = replace(answer, differs={**answer.differs, **differs}, figures={**answer.figures, **figures})
    if not (answer.differs and alike):
        said = f"{answer.said}; {name} came out as another"
        return replace(answer, verdict=DIVERGED, first=answer.first or name, said=said)
    said = f"{answer.said}; {name} is another, {ALIKE[name]}"
    return replace(answer, verdict=max(answer.verdict, EQUIVALENT, key=WORSE.index), said=said)


def same_answers(then: Artifact, made: Artifact) -> bool:
    """Say whether an evaluation that judged earlier answers again has the same answers; the verdict of their
    day stands among them.
    """
    files = (
        {name: each.files[name] for name in each.files if name.startswith("payload/")}
        for each in (then, made)
    )
    before, after = (
        {name: file for name, file in one.items() if name != f"payload/{VERDICT}"} for one in files
    )
    return ANSWERS_OF in then.figures and before == after


def _stand_in(audit: Audit, part: Indexed, project: CleanProject) -> None:
    """Let what comes after be made of the recorded one, where retention left its files."""
    with suppress(UserError):
        project.point_at(project.take(audit, part))


def _scores(then: Artifact, made: Artifact) -> dict[str, tuple[Any, Any]]:
    """Return the scores of two evaluations that differ."""
    before, after = (
        {f"{one['task']} {one['metric']}": one["value"] for one in each.figures.get("scores", ())}
        for each in (then, made)
    )
    names = sorted(before.keys() | after.keys())
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _judged_alike(then: Artifact, made: Artifact, scores: Mapping[str, tuple[Any, Any]]) -> bool:
    """Say whether two evaluations came to the same verdict by scores that are near."""
    passed = [each.figures["verdict"]["passed"] for each in (then, made)]
    return passed[0] == passed[1] and all(is_near(*pair, least=1.0) for pair in scores.values())


def is_near(recorded: float | None, rebuilt: float | None, least: float = 0.0) -> bool:
    """Say whether a figure that was made again may be that of an equivalent one: by a share of CLOSE of it,
    or of `least` where that is more.
    """
    if recorded is None or rebuilt is None:
        return recorded is rebuilt
    return abs(recorded - rebuilt) <= CLOSE * max(least, abs(recorded))


def other_files(recorded: Artifact, made: Artifact) -> str:
    """Say in words which files of a payload differ."""
    then, now = (
        {file["path"]: file["sha256"] for file in each.predicate["payload"]} for each in (recorded, made)
    )
    names = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    more = f" and {len(names) - FIRST:,} more" if len(names) > FIRST else ""
    return f"another: {', '.join(names[:FIRST])}{more}"


def code_of(audit: Audit, part: Indexed) -> str:
    """Return the digest of the package that made an artifact."""
    return str(audit.artifact(part).predicate["code"]["sha256"])
