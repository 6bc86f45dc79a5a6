"""Says what came out of a stage, whether it is good, and what to do next: the first lines of each page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ft_dagster.data.mixture.mixture_figures import MixtureFigures
from ft_dagster.data.rows.dataset_figures import DatasetFigures
from ft_dagster.data.rows.splits import SPLITS
from ft_dagster.gate.samples import Score
from ft_dagster.gate.verdict_words import rule_word, verdict_sentence, verdict_word
from ft_dagster.lineage.certificate import Certificate
from ft_dagster.lineage.verdict import Rule
from ft_dagster.lineage.version_status import VersionStatus
from ft_dagster.planning.estimate import Estimate
from ft_dagster.report.figures import ABSENT, change, count, counted, duration, percent, size
from ft_dagster.report.sentences.next_step import Result, next_of_stage, next_of_verdict
from ft_dagster.report.sentences.result import judged_sentence
from ft_dagster.report.tables.mixture import general_share
from ft_dagster.report.tables.recommendation import TO_TRAIN, refusal_of, spent_words
from ft_dagster.stage_entries import (
    BASE_EVALUATION,
    FINE_TUNED_MODEL,
    MODEL_EXPORT,
    TASK_DATASET,
    TRAINING_MIXTURE,
    TRAINING_PLAN,
)
from ft_dagster.training.training_figures import TrainingFigures


class Summary(NamedTuple):
    """Holds three sentences without their full stop."""

    what: str
    good: str
    next: str


def dataset_summary(figures: DatasetFigures, since: str = "", warnings: Sequence[str] = ()) -> Summary:
    """Summarize the figures of a task_dataset. `since`: what changed, where that is known; `warnings`: what
    its rows cannot decide.
    """
    rows, dropped = figures.rows, figures.rows_dropped
    parts = ", ".join(f"{count(rows[name])} {name}" for name in SPLITS if name in rows)
    why = ", ".join(f"{count(number)} {reason}" for reason, number in figures.dropped.items() if number)
    share = percent(dropped / figures.read) if figures.read else ABSENT
    good = f"{count(dropped)} dropped ({share}): {why}" if dropped else "No row was dropped"
    if short := figures.too_short_to_look_for:
        good += f"; {counted(short, 'question')} too short to look for"
    good += f"; {since}" if since else ""
    what = f"{count(sum(rows.values()))} of {count(figures.read)} rows kept: {parts}"
    return Summary(what, good, next_of_stage(TASK_DATASET.name, warnings))


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
    return Summary(what, f"{good}; {length}", next_of_stage(TRAINING_MIXTURE.name, warnings))


def plan_summary(estimate: Estimate, warnings: Sequence[str]) -> Summary:
    row, held = estimate.planned_row, estimate.plan.memory_bytes.total
    known = [] if row.hours is None else [f"{TO_TRAIN} {spent_words(estimate)}"]
    what = (
        f"{estimate.plan.name}, {count(estimate.steps)} steps, {count(estimate.trainable_parameters)} weights"
    )
    if not estimate.fits:
        return Summary(
            what, f"It does not fit: {refusal_of(estimate)}", "Take one of these changes, and run again"
        )
    of = "" if estimate.device_bytes is None else f" of {size(estimate.device_bytes)}"
    good = f"It fits: {size(held)}{of} on each device of {estimate.on}"
    return Summary(", ".join([what, *known]), good, next_of_stage(TRAINING_PLAN.name, warnings))


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
        good += f"; loss on watched general text {after - before:+.3f} nats a token"
    advice = [*([figures.stop_reason] if figures.stop_reason else []), *figures.advice]
    return Summary(what, good, next_of_stage(FINE_TUNED_MODEL.name, advice))


def base_scores_summary(scores: Sequence[Score]) -> Summary:
    """Summarize a base_evaluation."""
    tasks = list(dict.fromkeys(score.task for score in scores))
    what = f"The base was asked {counted(len(tasks), 'task')}: {', '.join(tasks)}"
    return Summary(
        what,
        "The tuned model is compared with it, question by question",
        next_of_stage(BASE_EVALUATION.name),
    )


def evaluation_summary(result: Result) -> Summary:
    """Summarize an evaluation, which there is, by its verdict alone: what became of the model since is shown
    by the page of `release`.
    """
    good = "" if result.verdict is None else verdict_sentence(result.verdict)
    return Summary(judged_sentence(result), good, next_of_verdict(result))


def export_summary(format: str, bytes: int, certificate: Certificate, serve: str | None) -> Summary:
    """Summarize an export. `serve`: the command by which vLLM serves it."""
    how = (
        "evaluated by itself"
        if not certificate.passed
        else "reloaded, it behaves as the weights that were judged"
    )
    return Summary(
        f"{'An adapter' if format == 'adapter' else 'A whole model'} of {size(bytes)} with its tokenizer",
        f"Certificate: {how}; served by {f'`{serve}`' if serve else 'transformers and PEFT, see the card'}",
        next_of_stage(MODEL_EXPORT.name),
    )


def judged_summary(versions: Sequence[tuple[str, str]], said: str, result: Result) -> Summary:
    """Say how a new version was held against the `versions` before, each named, and as what in words; none:
    which verdict stands, and why.
    """
    what = "The verdict of evaluation stands"
    if versions:
        what = f"The new version was held against {' and '.join(map(', '.join, versions))}"
    elif result.verdict is not None:
        what += f": {verdict_word(result.verdict)}"
    return Summary(what, said, next_of_verdict(result))


def release_summary(status: VersionStatus, verdict: str, following: str) -> Summary:
    """Summarize a release. `verdict`: its sentences; `following`: what a person does next."""
    served = "none" if status.production is None else f"version {status.production}"
    if status.is_served:
        return Summary(f"Version {status.version} is in production", verdict, following)
    return Summary(f"Version {status.version}; in production: {served}", verdict, following)


RULES = ("rule", "base → tuned", "result", "why")


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
    """Return the rows where a table is narrow: its result stands with the rule."""
    return [[f"{rule}: {changed}, {word}", why] for rule, changed, word, why in rules_rows(rules)]
