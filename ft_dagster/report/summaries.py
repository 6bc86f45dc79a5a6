"""Says what came out of a stage, whether it is good, and what to do next: the first lines of each page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.data.rows.dataset_figures import DatasetFigures
from ft_dagster.data.rows.splits import SPLITS
from ft_dagster.evaluation.skills import Skill
from ft_dagster.gate.samples import Score
from ft_dagster.gate.sentences import out_of_reach, wanted
from ft_dagster.gate.verdict_words import rule_word, slowest_rule, verdict_sentence
from ft_dagster.lineage.certificate import Certificate
from ft_dagster.lineage.verdict import Rule, Verdict
from ft_dagster.planning.estimate import Estimate
from ft_dagster.report.mixture import general_share
from ft_dagster.report.recommendation import refusal_of
from ft_dagster.report.tables import ABSENT, change, count, counted, duration, percent, size
from ft_dagster.spec.variant import MOST_QUESTIONS
from ft_dagster.training.training_figures import TrainingFigures


class Summary(NamedTuple):
    """Holds three sentences without their full stop."""

    what: str
    good: str
    next: str


def dataset_summary(figures: DatasetFigures, since: str = "") -> Summary:
    """Summarize the figures of a task_dataset; `since`: what changed, where that is known."""
    rows, dropped = figures.rows, figures.rows_dropped
    parts = ", ".join(f"{count(rows[name])} {name}" for name in SPLITS if name in rows)
    why = ", ".join(f"{count(number)} {reason}" for reason, number in figures.dropped.items() if number)
    share = percent(dropped / figures.read) if figures.read else ABSENT
    good = f"{count(dropped)} dropped ({share}): {why}" if dropped else "No row was dropped"
    if short := figures.too_short_to_look_for:
        good += f"; {counted(short, 'question')} too short to look for"
    good += f"; {since}" if since else ""
    following = (
        f"A test split of {count(figures.test_rows)} rows decides little: more rows, or an evaluation.task"
        if figures.test_rows < FEW
        else "Nothing to do; training_mixture renders these rows for the base"
    )
    return Summary(
        f"{count(sum(rows.values()))} of {count(figures.read)} rows kept: {parts}", good, following
    )


FEW = 50  # test rows below which a gate rarely decides


def mixture_summary(figures: MixtureFigures, warnings: Sequence[str]) -> Summary:
    train = figures.train
    what = (
        f"{counted(train.examples, 'example')}, {counted(train.tokens, 'token')}, "
        f"{count(train.trained_tokens)} of them trained on; "
        f"general text {general_share(figures)}"
    )
    cut = sum(part.truncated for part in train.by_source.values())
    length = f"the longest has {count(figures.longest)} of {count(figures.max_length)} tokens"
    good = f"{counted(cut, 'example')} cut" if cut else "No example cut"
    return Summary(what, f"{good}; {length}", _heed(warnings, "training_plan chooses how to train on it"))


def plan_summary(estimate: Estimate, warnings: Sequence[str]) -> Summary:
    row, held = estimate.planned_row, estimate.plan.memory_bytes.total
    known = [] if row.hours is None else [f"about {duration(3600 * row.hours)} with its evaluation"]
    known += [] if row.cost_usd is None else [f"${row.cost_usd:,.2f}"]
    what = (
        f"{estimate.plan.name}, {count(estimate.steps)} steps, {count(estimate.trainable_parameters)} weights"
    )
    if not estimate.fits:
        return Summary(
            what, f"It does not fit: {refusal_of(estimate)}", "Take one of these changes, and run again"
        )
    of = "" if estimate.device_bytes is None else f" of {size(estimate.device_bytes)}"
    good = f"It fits: {size(held)}{of} on each device of {estimate.on}"
    return Summary(", ".join([what, *known]), good, _heed(warnings, "fine_tuned_model trains it"))


def training_summary(figures: TrainingFigures) -> Summary:
    first, best = figures.validation_loss_first, figures.validation_loss_best
    what = (
        f"{count(figures.steps)} steps of {figures.method or 'training'} "
        f"in {duration(figures.training_seconds)}, "
        f"{size(figures.peak_bytes)} at its highest; the weights of step {count(figures.best_step)} are kept"
    )
    if first is None or best is None:
        good = "Without a validation split nothing says here whether it learned"
    else:
        learned = "It learned" if best < first else "It did not learn"
        good = f"{learned}: validation loss {change('validation_loss', first, best)} nats a token"
    before, after = figures.general_holdout_loss_first, figures.general_holdout_loss_last
    if before is not None and after is not None:
        good += f"; on the general text that it watched {after - before:+.3f}"
    advice = [*([figures.stop_reason] if figures.stop_reason else []), *figures.advice]
    return Summary(what, good, _heed(advice, "Nothing stands out; evaluation judges it"))


def base_scores_summary(scores: Sequence[Score]) -> Summary:
    """Summarize a base_evaluation."""
    tasks = list(dict.fromkeys(score.task for score in scores))
    what = f"The base was asked {counted(len(tasks), 'task')}: {', '.join(tasks)}"
    return Summary(
        what,
        "The tuned model is compared with it, question by question",
        "evaluation asks the tuned model the same",
    )


def evaluation_summary(
    verdict: Verdict, found: Sequence[Skill], limit: int | Literal["auto"] | None
) -> Summary:
    """Summarize an evaluation. `limit`: evaluation.limit, the questions of a task that are asked at most."""
    task = [rule for rule in verdict.rules if rule.rule == "task"]
    what = "; ".join(
        f"{rule.task} {rule.metric} {change(rule.metric, rule.base, rule.tuned)}" for rule in task
    )
    fallen = [skill.subject for skill in found if skill.tuned < skill.base]
    lost = f"; fell: {', '.join(fallen[:3])}" if fallen else ""
    return Summary(f"Base → tuned: {what}{lost}", verdict_sentence(verdict), next_step(verdict, limit))


def next_step(verdict: Verdict, limit: int | Literal["auto"] | None) -> str:
    """Say what a person does about a verdict."""
    if verdict.passed:
        return "Nothing to do: model_export and release follow"
    slowest = slowest_rule(verdict.rules)
    if verdict.outcome != "undecided" or slowest is None:
        return (
            "See the rules below; then other data or settings (more general text, a lower rate), "
            "and run it again"
        )
    if out_of_reach(slowest):
        worse = "fall" if slowest.higher_is_better else "rise"
        allow = f"Allow a larger {worse} of {slowest.task} {slowest.metric} (gates)"
        return f"{allow}, or train otherwise: asking more would not decide it"
    if slowest.rule == "general_loss":  # reads all held-out texts, whatever the limit
        read = count(slowest.units or slowest.questions)
        texts = f"Hold out about {count(wanted(slowest))} texts of the corpus ({read} were read)"
        return f"{texts}, or allow more (gates.general_loss_margin, gates.loss_tail)"
    said = {None: "all there are", "auto": f"auto, at most {count(MOST_QUESTIONS)}"}
    asked = said[limit] if limit is None or limit == "auto" else count(limit)
    ask = f"Ask about {count(wanted(slowest))} questions (evaluation.limit, now {asked})"
    return f"{ask}, or allow a larger fall (gates)"


def export_summary(format: str, bytes: int, certificate: Certificate, serve: str | None) -> Summary:
    """Summarize an export. `serve`: the command by which vLLM serves it."""
    how = (
        "evaluated by itself"
        if not certificate.passed
        else "reloaded, it behaves as the weights that were judged"
    )
    return Summary(
        f"{'An adapter' if format == 'adapter' else 'A whole model'} of {size(bytes)}",
        f"Certificate: {how}",
        f"`{serve}`" if serve else "Serve it with transformers and PEFT: see the card",
    )


def judged_summary(version: int | None, said: str, *, passed: bool) -> Summary:
    """Say how a new version was held against the `version` in production, in a sentence; None: against none,
    and why.
    """
    if version is None:
        return Summary("There is nothing to judge before the release", said, "Nothing to do: release follows")
    what = f"The new version was held against version {version}, which is in production"
    following = "Nothing to do: release follows"
    return Summary(what, said, following if passed else "See the rules below; then other data or settings")


def release_summary(version: int, production: int | None, verdict: str, following: str) -> Summary:
    """Summarize a release. `verdict`: its sentences; `following`: what is to be done for it to be served;
    empty where it is.
    """
    served = "none" if production is None else f"version {production}"
    waits = f"Version {version}; in production: {served}"
    what = waits if following else f"Version {version} is in production"
    return Summary(what, verdict, following or "Nothing to do; `ft-dagster catalogue` says how it is served")


RULES = ("rule", "base → tuned", "found", "why")


def rules_rows(rules: Sequence[Rule]) -> list[list[Any]]:
    """Return a row a rule of a verdict."""
    return [
        [
            f"{rule.task} {rule.metric}",
            change(rule.metric, rule.base, rule.tuned),
            rule_word(rule),
            rule.sentence,
        ]
        for rule in rules
    ]


PAGE_RULES = ("rule", "why")


def page_rules_rows(rules: Sequence[Rule]) -> list[list[Any]]:
    """Return the rows where a table is narrow: what was found stands with the rule."""
    return [[f"{rule}: {changed}, {found}", why] for rule, changed, found, why in rules_rows(rules)]


def _heed(lines: Sequence[str], otherwise: str) -> str:
    more = f" (and {len(lines) - 1} more below)" if len(lines) > 1 else ""
    return f"{lines[0]}{more}" if lines else f"Nothing to do; {otherwise}"
