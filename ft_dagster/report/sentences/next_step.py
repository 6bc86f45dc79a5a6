"""Says what a person does next about a variant: one decision, which every page, report and command shows."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ft_dagster.gate.sentences import out_of_reach, wanted_next
from ft_dagster.gate.verdict_words import slowest_rule, verdict_sentence
from ft_dagster.lineage.serving import Finding, said
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.lineage.version_status import VersionStatus
from ft_dagster.report.figures import count, counted
from ft_dagster.report.states import VariantStatus
from ft_dagster.spec.variant import MOST_QUESTIONS
from ft_dagster.stage_entries import (
    BASE_EVALUATION,
    BASE_MODEL,
    DECLARATION,
    EVALUATION,
    FINE_TUNED_MODEL,
    GENERAL_CORPUS,
    MODEL_EXPORT,
    RELEASE,
    RELEASE_EVALUATION,
    TASK_DATASET,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
)

Limit = int | Literal["auto"] | None
NOTHING = "Nothing to do"
WAS_CANCELLED = "it was cancelled"  # why a run did not succeed
REGRESSION = "regression"  # the check of a new version against production
SERVED = f"{NOTHING}; `ft-dagster catalogue` says how it is served"
NEXT_PAGE = {  # stage -> the page that shows what came of it, and what that page shows
    DECLARATION.name: (TASK_DATASET.name, "the rows that are named here"),
    BASE_MODEL.name: (BASE_EVALUATION.name, "how it answers before any training"),
    GENERAL_CORPUS.name: (TRAINING_MIXTURE.name, "how much of it each variant takes"),
    TASK_DATASET.name: (TRAINING_MIXTURE.name, "these rows as the base reads them"),
    TRAINING_MIXTURE.name: (TRAINING_PLAN.name, "how the base is trained on it"),
    TRAINING_PLAN.name: (FINE_TUNED_MODEL.name, "the training by this plan"),
    FINE_TUNED_MODEL.name: (EVALUATION.name, "how this model is judged"),
    BASE_EVALUATION.name: (EVALUATION.name, "the tuned model's answers to the same questions"),
    EVALUATION.name: (RELEASE.name, "what became of this model"),
    MODEL_EXPORT.name: (RELEASE.name, "whether this export is in production"),
    RELEASE_EVALUATION.name: (RELEASE.name, "what became of this model"),
}


@dataclass(frozen=True)
class Result:
    """Holds what came of a training. `verdict`: None before it was judged. `limit`: evaluation.limit.
    `status`: of its weights in the release log, None where they are in none. `approvers`: who may approve,
    empty where anyone may, None where that is not known; `unserved`: why its version may not be served.
    """

    variant: str
    verdict: Verdict | None
    limit: Limit = None
    status: VersionStatus | None = None
    approvers: tuple[str, ...] | None = None
    unserved: Sequence[Finding] = ()

    @property
    def who(self) -> str | None:
        """Name who may approve; None where that is not known."""
        return None if self.approvers is None else " or ".join(self.approvers) or "anyone"

    def is_refused_by(self, failure: str | None) -> bool:
        """Say whether its verdict did not pass, and is why the newest run failed, if one did."""
        if self.verdict is None or self.verdict.passed:
            return False
        return failure is None or verdict_sentence(self.verdict) in failure


def next_step(result: Result) -> str:
    """Return what a person does next, in one sentence without its full stop."""
    verdict, status, run = result.verdict, result.status, f"`ft-dagster run {result.variant}`"
    if status is not None:
        return _of_version(result, status)
    if verdict is None:
        return f"{run} judges it"
    if not verdict.passed:
        return _of_refused(result, verdict)
    return f"Its run releases it; where that has ended without, {run} releases it or says why not"


def next_of_project(folder: str, variant: str) -> str:
    """Return what a person does about a project that was just begun."""
    tool = f"ft-dagster --project {shlex.quote(folder)}"
    return f"`{tool} check` reads the rows; then `{tool} plan {variant}` and `{tool} run {variant}`"


def next_of_plan(variant: str, *, fits: bool) -> str:
    """Return what a person does about a plan."""
    again = "Change the declaration as the list above says, then"
    return f"`ft-dagster run {variant}` trains it" if fits else f"{again} `ft-dagster plan {variant}`"


def next_of_stage(stage: str, to_heed: Sequence[str] = ()) -> str:
    """Return what a person does about a stage before the verdict: read its warnings, else open the page that
    shows what came of it.
    """
    page, what = NEXT_PAGE[stage]
    if not to_heed:
        return f"Open {page}: it shows {what}"
    noun = "advice" if stage == FINE_TUNED_MODEL.name else counted(len(to_heed), "warning")
    return f"Read the {noun} below; first: {to_heed[0]}"


def next_of_verdict(result: Result) -> str:
    """Return what a person does about a verdict, whatever the release log says: a page that is written before
    the release, and not again at each entry of the log, cannot know it.
    """
    if result.verdict is not None and not result.verdict.passed:
        return _of_refused(result, result.verdict)
    page, what = NEXT_PAGE[EVALUATION.name]
    return f"Open {page}, or ask `ft-dagster status {result.variant}`: both show {what}"


def next_of_state(
    variant: str,
    state: VariantStatus,
    known: str,
    *,
    refused: bool = False,
    failure: str = "",
    unserved: Sequence[Finding] = (),
) -> str:
    """Return what a person does about a variant's state. `known`: `next_step` of its newest result, empty
    where nothing of it was judged; `refused`: whether its gate did not hold; `failure`: of its newest run;
    `unserved`: why its version in production may no longer be served.
    """
    run = f"`ft-dagster run {variant}`"
    mend = known if refused and known else f"{_mended(failure)}, then {run}"
    if failure == WAS_CANCELLED:
        mend = f"{run} goes on where it was cancelled"
    otherwise = {
        "broken": "Mend the cause that is named",
        "parked": mend,
        "failing": mend,
        "stale": f"{run} brings it up to date",
        "running": f"{run} follows its run, and `ft-dagster cancel {variant}` ends it",
        "never trained": f"{run} trains it",
        "not judged": f"{run} judges it",
        "retired": f"{NOTHING}; it is declared no longer",
    }
    served = unserved[0].fix if unserved else known
    return otherwise.get(state) or served or NOTHING


def _mended(failure: str) -> str:
    """Say what is to be changed after a failure, by the step that failed."""
    if failure.startswith(f"{RELEASE_EVALUATION.name}: check {REGRESSION} failed"):
        return (
            "A fall against the version in production, or since the reference, is not ruled out: change data "
            "or settings, or allow a larger one (gates.regression_margin, gates.reference_margin; of a loss "
            "gates.regression_loss_margin, gates.reference_loss_margin)"
        )
    return "Mend the cause that is named"


def _of_version(result: Result, status: VersionStatus) -> str:
    version = status.version
    command = f"`ft-dagster release {result.variant} --version {version}"
    if status.rolled_back is not None:
        gone = f"Version {version} was rolled back ({status.rolled_back}): it stays so"
        return f"{gone}; {command} --force --reason ...` puts it back"
    if status.waits:
        back = [each for each in result.unserved if each.rule == "parent"]
        who, why = result.who or "approval", status.unmeasured or said(back)
        force = " --force --reason ..." if back else ""
        return f"Version {version} waits for {who}{f' ({why})' if why else ''}: {command}{force}` approves it"
    if status.is_served and result.verdict is not None and not result.verdict.passed:
        refused = _of_refused(result, result.verdict)
        return f"Version {version} is in production, and today's gates do not pass it. {refused}"
    if status.is_served and result.unserved:
        first = result.unserved[0]
        return f"Version {version} is in production and may no longer be served: {first.words}. {first.fix}"
    if status.is_served:
        return SERVED
    served = f"version {status.production} is" if status.production else "no version is"
    return f"{NOTHING}; {served} in production, and {command}` puts version {version} there"


def _of_refused(result: Result, verdict: Verdict) -> str:
    slowest = slowest_rule(verdict.rules)
    if verdict.outcome != "undecided" or slowest is None:
        learns = {rule.rule for rule in verdict.broken} <= {"task"}
        change = "more or better rows, other settings" if learns else "more general text, a lower rate"
        return f"Change data or settings ({change}), then `ft-dagster run {result.variant}`"
    return _of_undecided(slowest, verdict.tries, result.limit)


def _of_undecided(slowest: Rule, tries: int, limit: Limit) -> str:
    if out_of_reach(slowest):
        worse = "fall" if slowest.higher_is_better else "rise"
        allow = f"Allow a larger {worse} of {slowest.task} {slowest.metric} (gates)"
        return f"{allow}, or train otherwise: asking more would not decide it"
    if slowest.rule == "general_loss":  # reads all held-out texts, whatever the limit
        read, more = count(slowest.units or slowest.questions), count(wanted_next(slowest, tries))
        texts = f"Hold out about {more} texts (data.general.held_out; {read} were read)"
        return f"{texts}, or allow more (gates.general_loss_margin, gates.loss_tail)"
    said = {None: "all there are", "auto": f"auto, at most {count(MOST_QUESTIONS)}"}
    asked = said[limit] if limit is None or limit == "auto" else count(limit)
    ask = f"Ask about {count(wanted_next(slowest, tries))} questions (evaluation.limit, now {asked})"
    return f"{ask}, or allow a larger fall (gates)"
